"""What every coupling log f_theta(context, z') has in common; it is in nats and needs no normaliser (Z is one)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.ops import MappedSides, Score, SumOfScores
from recparam.ops.precision import SinglePrecision, at_least_single, check_single, full_precision
from recparam.utils.checks import UninitialisedError, check_tensor, explain_dtype


class Coupling(SinglePrecision, ABC):
    """log f_theta(z, z') for latents of shape (..., D) and (..., D'), broadcast over the leading axes.

    A coupling of `order` p > 1 reads p earlier latents: its first argument is the context, z_{t-p+1} to z_t side by
    side, oldest first, of shape (..., p D).

    Its numbers are in single precision or better: latents in half are lifted, autocast is off within, and `half()`
    leaves the parameters.
    """

    _waits_for: ClassVar[str] = "lengthscale"

    @property
    def spheres(self) -> tuple[int, ...]:
        """Columns of each sphere, where it takes latents for points on spheres; empty elsewhere."""
        return ()

    @property
    def order(self) -> int:
        """How many earlier latents it reads."""
        return 1

    @abstractmethod
    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        """log f of broadcast latents, shape (...)."""

    @abstractmethod
    def score(self) -> Score:
        """The same log f as a pairwise score for the kernel."""

    @abstractmethod
    def _check_widths(self, width: int, width_prime: int) -> None:
        """Raise ValueError if latents of these widths cannot be coupled."""

    def at_most(self, order: int) -> Coupling | None:
        """The factors of f that read at most so many earlier latents; None where there are none."""
        return self if self.order <= order else None

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """log f in the paper's notation, with its numbers.

        Args:
            context: Names of the earlier latents, oldest first, `order` of them or more.
            z_prime: Name of z'.
        """
        return f"log {type(self).__name__}({', '.join([*context[-self.order :], z_prime])})"

    def formula(self) -> str:
        """One line: log f(z, z') = ... with the values learned so far.

        Example:
            >>> import recparam as rp
            >>> (rp.OnDimensions(rp.GaussianRBF(lengthscale=0.5), [0]) + rp.Cosine(0.1)).formula()
            "log f(z, z') = -1/2 |z[0] - z'[0]|^2 / 0.5^2 + cos(z, z') / 0.1"
        """
        context, z_prime = latent_names(self.order)
        return f"log f({', '.join(context)}, {z_prime}) = {self.expression(context, z_prime)}"

    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Set what is to be learned from the data, once; a no-op where nothing is (or it is set already)."""

    @property
    def initialised(self) -> bool:
        """Whether every data-driven starting value is set."""
        return True

    def check_initialised(self) -> None:
        """Raise UninitialisedError if a starting value that comes from data is not set."""
        if not self.initialised:
            raise UninitialisedError(
                f"Expected a coupling whose {self._waits_for} is set; got a {type(self).__name__} that waits for data, "
                "which evaluating does not set. Train it, call model.initialise(x, x_prime), "
                "prior.initialise(z, z_prime) or "
                f"coupling.initialise(z, z_prime) with training data first, or give {self._waits_for}=."
            )

    def prepare(self, z: Float[Tensor, "*batch D"], z_prime: Float[Tensor, "*batch2 D2"]) -> bool:
        """Set what waits for data in a forward pass of training: in training mode, with gradients.

        Returns:
            Whether it was set now, from these latents.

        Raises:
            UninitialisedError: It is not set, and this is no training.
        """
        if self.initialised:
            return False
        if not (self.training and torch.is_grad_enabled()):
            self.check_initialised()
        self.initialise(z.reshape(-1, z.shape[-1]), z_prime.reshape(-1, z_prime.shape[-1]))
        return True

    def check_widths(self, width: int, width_prime: int) -> None:
        """Raise ValueError if latents of these widths cannot be coupled; names both widths."""
        if self.order > 1 and width != self.order * width_prime:
            raise ValueError(
                f"Expected z as {self.order} earlier latents side by side, oldest first, {self.order} times as wide as "
                f"z_prime, for this coupling of order {self.order}; got widths {width} and {width_prime}."
            )
        self._check_widths(width, width_prime)

    def forward(self, z: Float[Tensor, "*batch D"], z_prime: Float[Tensor, "*batch2 D2"]) -> Tensor:
        """log f(z, z').

        Args:
            z: Shape (..., D), or (..., p D) for a coupling of order p.
            z_prime: Shape (..., D'), broadcastable with z.

        Returns:
            Shape (...), in nats.

        Raises:
            ValueError: The widths or dtypes do not fit; parameters made in half precision; a lengthscale that waits for
                data, outside of training or with one row.
        """
        check_tensor("z", z)
        check_tensor("z_prime", z_prime)
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        check_single(self)
        self.prepare(z, z_prime)
        try:
            with full_precision(z_prime.device):
                return self._log_f(at_least_single(z), at_least_single(z_prime))
        except RuntimeError as error:
            explain_dtype(error, "z", z, self)
            explain_dtype(error, "z_prime", z_prime, self)
            raise

    def on_pairs(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """log f of every row with every column, for couplings whose score is taken in blocks."""
        with full_precision(bank.device):
            return self._log_f(at_least_single(z)[:, None], at_least_single(bank)[None])

    def __add__(self, other: Coupling) -> CouplingSum:
        """log f of a product of couplings."""
        if not isinstance(other, Coupling):
            return NotImplemented
        return CouplingSum([self, other])


def check_is_coupling(name: str, value: object) -> None:
    """Raise ValueError unless a value is a coupling."""
    if not isinstance(value, Coupling):
        raise ValueError(f"Expected {name} as a recparam Coupling, such as rp.Cosine(); got {value!r}.")


def latent_names(order: int) -> tuple[list[str], str]:
    """What formulas call the earlier latents, oldest first, and z'."""
    if order == 1:
        return ["z"], "z'"
    return [*(f"z_{{t-{k}}}" for k in range(order - 1, 0, -1)), "z_t"], "z_{t+1}"


class Product(Coupling):
    """Factors f_k whose log f_k are added; a factor of lower order reads the latest latents of the context."""

    @property
    @abstractmethod
    def parts(self) -> list[Coupling]:
        """The couplings that are added."""

    @property
    def order(self) -> int:
        """The largest of the parts'."""
        return max(part.order for part in self.parts)

    def at_most(self, order: int) -> Coupling | None:
        """The product of the factors of lower order."""
        if self.order <= order:
            return self
        left = [part for part in (part.at_most(order) for part in self.parts) if part is not None]
        return CouplingSum(left) if left else None

    @property
    def initialised(self) -> bool:
        """Whether every part is."""
        return all(part.initialised for part in self.parts)

    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Initialise every part."""
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        for part, context in self._with_contexts(z):
            part.initialise(context, z_prime)

    def _check_widths(self, width: int, width_prime: int) -> None:
        for part in self.parts:
            part.check_widths(width // self.order * part.order, width_prime)

    def _with_contexts(self, z: Tensor) -> Iterator[tuple[Coupling, Tensor]]:
        order = self.order
        for part in self.parts:
            yield part, latest(part.order, order)(z)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return torch.stack([part(context, z_prime) for part, context in self._with_contexts(z)]).sum(0)

    def score(self) -> Score:
        """The sum of the parts' scores."""
        order = self.order
        return SumOfScores(
            [
                MappedSides(part.score(), rows=latest(part.order, order)) if part.order < order else part.score()
                for part in self.parts
            ]
        )

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """The parts' expressions, added."""
        return " + ".join(part.expression(context, z_prime) for part in self.parts).replace("+ -", "- ")


class CouplingSum(Product):
    """The sum of several log f: a product of couplings, often each on its own dimensions.

    Its order is the largest of its parts'; a part of lower order reads the latest latents of the context.

    Args:
        couplings: At least one.

    Raises:
        ValueError: No coupling is given, or something else.
    """

    def __init__(self, couplings: Sequence[Coupling]) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(as_couplings(couplings))

    @property
    def parts(self) -> list[Coupling]:
        """The couplings that are added."""
        return [part for part in self.couplings if isinstance(part, Coupling)]


class ContextSlice:
    """A function of contexts of `order` latents: those of them from `start` up to `stop`."""

    def __init__(self, order: int, start: int, stop: int) -> None:
        self.order, self.start, self.stop = order, start, stop

    def __call__(self, context: Tensor) -> Tensor:
        """Their columns of the context."""
        width = context.shape[-1] // self.order
        return context[..., self.start * width : self.stop * width]


def latest(count: int, order: int) -> ContextSlice:
    """The last `count` latents of contexts of `order` of them."""
    return ContextSlice(order, order - count, order)


def as_couplings(couplings: Sequence[Coupling]) -> list[Coupling]:
    """The couplings as a list; ValueError unless there is one, and nothing else."""
    parts = list(couplings) if isinstance(couplings, Iterable) else []
    if not parts or not all(isinstance(part, Coupling) for part in parts):
        raise ValueError(
            f"Expected couplings as a sequence of at least one coupling, such as [rp.Cosine()]; got {couplings!r}."
        )
    return parts
