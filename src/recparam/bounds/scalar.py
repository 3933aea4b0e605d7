"""A number that says what it is, and that torch takes as the scalar tensor it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Number = int | float


class Scalar:
    """A `value` in nats with words about it; arithmetic and torch functions are those of the value.

    What they return is a plain tensor: a sum of bounds, or a bound less a penalty, says nothing of itself any more.
    Where a `torch.Tensor` itself is demanded, as by `torch.amp.GradScaler`, hand over `value`.
    """

    value: Tensor

    def backward(self, *, retain_graph: bool | None = None) -> None:
        """Add the gradient of the value to every `.grad`, the sign unchanged, as `value.backward()` does.

        An optimiser subtracts it, which is right for a loss. A `Bound` is to be maximised: call `(-bound).backward()`,
        or build the optimiser with `maximize=True`.

        Args:
            retain_graph: As in `torch.Tensor.backward`; the bounds have no second derivative.
        """
        self.value.backward(retain_graph=retain_graph)

    def item(self) -> float:
        """The value in nats, as a number without a gradient."""
        return float(self.value.detach())

    def detach(self) -> Tensor:
        """The value without its graph."""
        return self.value.detach()

    def __float__(self) -> float:
        """The value in nats."""
        return self.item()

    def __format__(self, spec: str) -> str:
        """The value in a number's format such as `.3f`; without one, the words."""
        return format(self.item(), spec) if spec else str(self)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Any torch function, of the values."""
        return func(*(_value(arg) for arg in args), **{name: _value(arg) for name, arg in (kwargs or {}).items()})

    def __neg__(self) -> Tensor:
        return -self.value

    def __add__(self, other: Tensor | Number | Scalar) -> Tensor:
        return self.value + _value(other)

    def __radd__(self, other: Tensor | Number) -> Tensor:
        return other + self.value

    def __sub__(self, other: Tensor | Number | Scalar) -> Tensor:
        return self.value - _value(other)

    def __rsub__(self, other: Tensor | Number) -> Tensor:
        return other - self.value

    def __mul__(self, other: Tensor | Number | Scalar) -> Tensor:
        return self.value * _value(other)

    def __rmul__(self, other: Tensor | Number) -> Tensor:
        return other * self.value

    def __truediv__(self, other: Tensor | Number | Scalar) -> Tensor:
        return self.value / _value(other)

    def __lt__(self, other: Tensor | Number | Scalar) -> Tensor:
        return self.value < _value(other)

    def __gt__(self, other: Tensor | Number | Scalar) -> Tensor:
        return self.value > _value(other)


def _value(argument: Any) -> Any:
    """An argument of a torch function, or a list of them, with tensors in place of scalars."""
    if isinstance(argument, list | tuple):
        return type(argument)(_value(part) for part in argument)
    return argument.value if isinstance(argument, Scalar) else argument
