"""Where the earlier latents lead, and couplings of that place with z'; couplings at a lag."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.couplings.base import ContextSlice, Coupling, check_is_coupling
from recparam.ops import MappedSides, Score
from recparam.ops.precision import SinglePrecision, at_least_single, full_precision
from recparam.utils.checks import check_count, check_tensor, is_finite_number
from recparam.utils.shown import number, shown


class Transition(SinglePrecision, ABC):
    """h(z_{t-p+1}, ..., z_t): the place to which p earlier latents lead, p the `order`."""

    @property
    @abstractmethod
    def order(self) -> int:
        """How many earlier latents it reads."""

    @abstractmethod
    def _next(self, context: Tensor) -> Tensor:
        """h of latents side by side, (..., p D) to (..., D)."""

    @abstractmethod
    def expression(self, context: Sequence[str]) -> str:
        """h in the paper's notation, given names of the earlier latents, oldest first."""

    def check_width(self, width: int) -> None:
        """Raise ValueError if latents of this width D do not fit."""

    def forward(self, context: Float[Tensor, "*batch PD"]) -> Float[Tensor, "*batch D"]:
        """h(context).

        Args:
            context: The last p latents side by side, oldest first, shape (..., p D).

        Returns:
            Shape (..., D).

        Raises:
            ValueError: A width that is no multiple of p, or does not fit the parameters.
        """
        check_tensor("context", context)
        if context.shape[-1] % self.order:
            raise ValueError(
                f"Expected context as {self.order} latents side by side, of a width divisible by {self.order}; got "
                f"width {context.shape[-1]}."
            )
        self.check_width(context.shape[-1] // self.order)
        with full_precision(context.device):
            return self._next(at_least_single(context))


class ConstantVelocity(Transition):
    """The step from z_{t-1} to z_t is made once more.

        h(z_{t-1}, z_t) = 2 z_t - z_{t-1}

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> f = rp.After(rp.ConstantVelocity(), rp.GaussianRBF(lengthscale=1.0))
        >>> f.formula()
        'log f(z_{t-1}, z_t, z_{t+1}) = -1/2 |(2 z_t - z_{t-1}) - z_{t+1}|^2 / 1^2'
        >>> f(torch.tensor([0.0, 1.0]), torch.tensor([[2.0], [4.0]]))
        tensor([-0., -2.], grad_fn=<MulBackward0>)
    """

    @property
    def order(self) -> int:
        """Two."""
        return 2

    def _next(self, context: Tensor) -> Tensor:
        before, now = context.chunk(2, dim=-1)
        return now + (now - before)

    def expression(self, context: Sequence[str]) -> str:
        """2 z_t - z_{t-1}."""
        return f"2 {context[-1]} - {context[-2]}"


class Damped(Transition):
    """The step from z_{t-1} to z_t is made once more, shortened by a learned factor.

        h(z_{t-1}, z_t) = z_t + d (z_t - z_{t-1})

    Args:
        damping: Starting value of d: one is constant velocity, zero is staying.

    Raises:
        ValueError: damping is not a finite number.
    """

    def __init__(self, damping: float = 0.5) -> None:
        super().__init__()
        if not is_finite_number(damping):
            raise ValueError(f"Expected damping as a finite number; got {damping!r}.")
        self.damping = nn.Parameter(torch.tensor(float(damping)))

    def extra_repr(self) -> str:
        """The factor."""
        return shown(damping=self.damping)

    @property
    def order(self) -> int:
        """Two."""
        return 2

    def _next(self, context: Tensor) -> Tensor:
        before, now = context.chunk(2, dim=-1)
        return now + self.damping.to(now.dtype) * (now - before)

    def expression(self, context: Sequence[str]) -> str:
        """z_t + d (z_t - z_{t-1})."""
        return f"{context[-1]} + {number(self.damping)} ({context[-1]} - {context[-2]})"


class LinearAR(Transition):
    """A learned linear map of the last latents: the mean of an AR(p) process.

        h(z_{t-p+1}, ..., z_t) = A_1 z_t + ... + A_p z_{t-p+1} + b

    It starts at staying: A_1 is the identity, all else zero.

    Args:
        order: p.
        dim: Width D of a latent.

    Raises:
        ValueError: An order or width below one.
    """

    def __init__(self, order: int, dim: int) -> None:
        super().__init__()
        check_count("order", order)
        check_count("dim", dim)
        weight = torch.zeros(dim, order * dim)
        weight[:, -dim:] = torch.eye(dim)
        self.weight = nn.Parameter(weight)
        self.offset = nn.Parameter(torch.zeros(dim))

    @property
    def order(self) -> int:
        """p."""
        return self.weight.shape[1] // self.weight.shape[0]

    def extra_repr(self) -> str:
        """Order and width."""
        return shown(order=self.order, dim=len(self.offset))

    @property
    def matrices(self) -> Float[Tensor, "P D D"]:
        """A_1 to A_p, shape (p, D, D); A_1 is that of the latest latent."""
        return self.weight.unflatten(1, (self.order, -1)).transpose(0, 1).flip(0)

    def check_width(self, width: int) -> None:
        """Raise ValueError if latents of this width D do not fit."""
        if width != len(self.offset):
            raise ValueError(f"Expected latents of width {len(self.offset)} for this LinearAR; got {width}.")

    def _next(self, context: Tensor) -> Tensor:
        return context @ self.weight.to(context.dtype).T + self.offset.to(context.dtype)

    def expression(self, context: Sequence[str]) -> str:
        """A_1 z_t + ... + b."""
        read = reversed(context[-self.order :])
        return " + ".join([*(f"A_{k} {name}" for k, name in enumerate(read, 1)), "b"])


class NeuralTransition(Transition):
    """A learned step from the latest latent.

        h(z_{t-p+1}, ..., z_t) = z_t + NN(z_{t-p+1}, ..., z_t)

    The network has two hidden layers and starts near zero.

    Args:
        order: p.
        dim: Width D of a latent.
        hidden: Units of a hidden layer.

    Raises:
        ValueError: A count below one.
    """

    def __init__(self, order: int, dim: int, *, hidden: int = 32) -> None:
        super().__init__()
        for name, value in (("order", order), ("dim", dim), ("hidden", hidden)):
            check_count(name, value)
        self._order, self.dim = order, dim
        last = nn.Linear(hidden, dim)
        with torch.no_grad():
            last.weight *= 0.1
            last.bias.zero_()
        self.net = nn.Sequential(nn.Linear(order * dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)

    def extra_repr(self) -> str:
        """Order and width."""
        return shown(order=self.order, dim=self.dim)

    @property
    def order(self) -> int:
        """p."""
        return self._order

    def check_width(self, width: int) -> None:
        """Raise ValueError if latents of this width D do not fit."""
        if width != self.dim:
            raise ValueError(f"Expected latents of width {self.dim} for this NeuralTransition; got {width}.")

    def _next(self, context: Tensor) -> Tensor:
        # The kernel may ask in double precision; the network answers in its own.
        step = self.net(context.to(next(self.net.parameters()).dtype))
        return context[..., -self.dim :] + step.to(context.dtype)

    def expression(self, context: Sequence[str]) -> str:
        """z_t + NN(...)."""
        return f"{context[-1]} + NN({', '.join(context[-self.order :])})"


class After(Coupling):
    """A coupling of z_{t+1} with the place to which the earlier latents lead.

        log f(z_{t-p+1}, ..., z_t, z_{t+1}) = log g(h(z_{t-p+1}, ..., z_t), z_{t+1})

    Args:
        transition: h, of order p.
        coupling: g, of order one.

    Raises:
        ValueError: No transition, no coupling, or one of a higher order.
    """

    def __init__(self, transition: Transition, coupling: Coupling) -> None:
        super().__init__()
        if not isinstance(transition, Transition):
            raise ValueError(
                f"Expected transition as a recparam transition, such as rp.ConstantVelocity(); got {transition!r}."
            )
        check_is_coupling("coupling", coupling)
        if coupling.order != 1:
            raise ValueError(
                f"Expected coupling of order 1, of the place h with z'; got one of order {coupling.order}. Give "
                f"earlier latents to the transition, or add couplings with +."
            )
        self.transition, self.coupling = transition, coupling

    @property
    def order(self) -> int:
        """That of the transition."""
        return self.transition.order

    @property
    def initialised(self) -> bool:
        """Whether the coupling is."""
        return self.coupling.initialised

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "B PD"], z_prime: Float[Tensor, "B D"]) -> None:
        """Initialise the coupling from h and z'."""
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        self.coupling.initialise(self.transition(z), z_prime)

    def _check_widths(self, width: int, width_prime: int) -> None:
        self.transition.check_width(width // self.order)
        self.coupling.check_widths(width // self.order, width_prime)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return self.coupling(self.transition(z), z_prime)

    def score(self) -> Score:
        """The coupling's score of h."""
        return MappedSides(self.coupling.score(), rows=self.transition)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """The coupling's expression of h."""
        return self.coupling.expression([f"({self.transition.expression(context)})"], z_prime)


class AtLag(Coupling):
    """A coupling of z_{t+1} with an earlier latent than the last: z_{t+1-lag}.

    Slow content and fast style are a sum of couplings at different lags:

        rp.OnDimensions(rp.GaussianRBF(), style) + rp.AtLag(rp.OnDimensions(rp.GaussianRBF(), content), 5)

    Args:
        coupling: Of z_{t+1-lag} and z_{t+1}; one of order q reads the q latents up to z_{t+1-lag}.
        lag: Steps between the two; one is the coupling itself.

    Raises:
        ValueError: No coupling, or a lag below one.
    """

    def __init__(self, coupling: Coupling, lag: int) -> None:
        super().__init__()
        check_is_coupling("coupling", coupling)
        check_count("lag", lag)
        self.coupling, self.lag = coupling, lag

    def extra_repr(self) -> str:
        """The lag."""
        return shown(lag=self.lag)

    @property
    def order(self) -> int:
        """The lag, and what the coupling reads before it."""
        return self.coupling.order + self.lag - 1

    @property
    def initialised(self) -> bool:
        """Whether the coupling is."""
        return self.coupling.initialised

    def initialise(self, z: Float[Tensor, "B PD"], z_prime: Float[Tensor, "B D"]) -> None:
        """Initialise the coupling from latents at that lag."""
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        self.coupling.initialise(self._latents(z), z_prime)

    def at_most(self, order: int) -> Coupling | None:
        """The same lag of the coupling's factors."""
        inner = self.coupling.at_most(order - self.lag + 1)
        return None if inner is None else self if inner is self.coupling else AtLag(inner, self.lag)

    def _check_widths(self, width: int, width_prime: int) -> None:
        self.coupling.check_widths(width // self.order * self.coupling.order, width_prime)

    @property
    def _latents(self) -> ContextSlice:
        return ContextSlice(self.order, 0, self.coupling.order)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return self.coupling(self._latents(z), z_prime)

    def score(self) -> Score:
        """The coupling's score of the earlier latents."""
        return self.coupling.score() if self.lag == 1 else MappedSides(self.coupling.score(), rows=self._latents)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """The coupling's expression of the earlier latents."""
        return self.coupling.expression(context[: len(context) - self.lag + 1], z_prime)
