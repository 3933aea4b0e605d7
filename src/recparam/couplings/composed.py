"""Products of couplings, whose log f are added: on chosen dimensions, of several factors, one per group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from numbers import Integral
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.couplings.base import Coupling, Product, check_is_coupling
from recparam.ops import MappedSides, OnColumns, Score
from recparam.utils.shown import shown


class OnDimensions(Coupling):
    """A coupling of chosen dimensions only; the others are left independent.

    Args:
        coupling: The coupling of the chosen dimensions.
        dims: Indices into z; of a coupling of order p, into each of the p latents.
        dims_prime: Indices into z'; None means `dims`.

    Raises:
        ValueError: No coupling, empty, repeated or negative indices, or latents too narrow for them.
    """

    def __init__(self, coupling: Coupling, dims: Sequence[int], *, dims_prime: Sequence[int] | None = None) -> None:
        super().__init__()
        check_is_coupling("coupling", coupling)
        self.coupling = coupling
        self.dims = _indices("dims", dims)
        self.dims_prime = _indices("dims_prime", dims if dims_prime is None else dims_prime)

    def extra_repr(self) -> str:
        """The dimensions."""
        return shown(dims=self.dims, dims_prime=None if self.dims_prime == self.dims else self.dims_prime)

    @property
    def order(self) -> int:
        """That of the inner coupling."""
        return self.coupling.order

    @property
    def initialised(self) -> bool:
        """Whether the inner coupling is."""
        return self.coupling.initialised

    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Initialise the inner coupling from the chosen dimensions."""
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        self.coupling.initialise(self._of_context(z), z_prime[..., self.dims_prime])

    def at_most(self, order: int) -> Coupling | None:
        """The same dimensions of the inner coupling's factors."""
        inner = self.coupling.at_most(order)
        if inner is None or inner is self.coupling:
            return None if inner is None else self
        return OnDimensions(inner, self.dims, dims_prime=self.dims_prime)

    def _check_widths(self, width: int, width_prime: int) -> None:
        if max(self.dims) >= width // self.order or max(self.dims_prime) >= width_prime:
            raise ValueError(
                f"Expected latents wide enough for dimensions {self.dims} and {self.dims_prime}; "
                f"got widths {width // self.order} and {width_prime}."
            )
        self.coupling.check_widths(self.order * len(self.dims), len(self.dims_prime))

    def _of_context(self, z: Tensor) -> Tensor:
        if self.order == 1:
            return z[..., self.dims]
        return z.unflatten(-1, (self.order, -1))[..., self.dims].flatten(-2)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return self.coupling(self._of_context(z), z_prime[..., self.dims_prime])

    def score(self) -> Score:
        """The inner score of the chosen dimensions."""
        if self.order == 1:
            return OnColumns(self.coupling.score(), self.dims, self.dims_prime)
        return MappedSides(OnColumns(self.coupling.score(), slice(None), self.dims_prime), rows=self._of_context)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """The inner expression, with the dimensions as indices."""
        named = [f"{name}[{','.join(map(str, self.dims))}]" for name in context]
        return self.coupling.expression(named, f"{z_prime}[{','.join(map(str, self.dims_prime))}]")


class Groups(Product):
    """The same kind of coupling for each group of dimensions: objects that move alike, independently.

        log f(z, z') = sum_g log f_g(z_g, z'_g)

    Args:
        coupling: log f of one group.
        groups: The dimensions of each group, such as [[0, 1], [2, 3], [4, 5]].
        shared: Whether one set of parameters serves all groups; otherwise each has its own copy. Shared
            parameters start at the mean of what each group's own would start at, in their own form: of lengths,
            which are learned as logarithms, the geometric mean.
        rest: None: every dimension is in a group, or it is an error. "free": other dimensions are left independent.

    Raises:
        ValueError: Groups that are empty or overlap, dimensions in no group, or latents too narrow.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> balls = rp.Groups(rp.StepLength(1.0, width=0.5), [[0, 1], [2, 3]])
        >>> balls.formula()
        "log f(z, z') = -(|z[0,1] - z'[0,1]| - 1)^2 / (2 0.5^2) - (|z[2,3] - z'[2,3]| - 1)^2 / (2 0.5^2)"
        >>> balls(torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 2.0]))
        tensor(-2., grad_fn=<SumBackward1>)
    """

    def __init__(
        self,
        coupling: Coupling,
        groups: Sequence[Sequence[int]],
        *,
        shared: bool = True,
        rest: Literal["free"] | None = None,
    ) -> None:
        super().__init__()
        check_is_coupling("coupling", coupling)
        if not isinstance(groups, Iterable) or not list(groups):
            raise ValueError(f"Expected groups as lists of dimensions, such as [[0, 1], [2, 3]]; got {groups!r}.")
        if rest not in (None, "free"):
            raise ValueError(f"Expected rest=None or 'free'; got {rest!r}.")
        self.groups = [_indices("each group", group) for group in groups]
        every = sorted(d for group in self.groups for d in group)
        if twice := sorted({d for d, after in zip(every[:-1], every[1:], strict=True) if d == after}):
            raise ValueError(f"Expected groups that do not overlap; got dimensions {twice} in several of {groups!r}.")
        self.shared, self.rest = shared, rest
        own = [coupling if shared or not k else deepcopy(coupling) for k in range(len(self.groups))]
        self.couplings = nn.ModuleList(own[:1] if shared else own)
        # In a tuple, which torch does not register: shared parameters are saved once.
        self._on_groups = tuple(OnDimensions(part, group) for part, group in zip(own, self.groups, strict=True))

    def extra_repr(self) -> str:
        """The groups."""
        return shown(groups=self.groups, shared=self.shared, rest=self.rest)

    @property
    def parts(self) -> list[Coupling]:
        """The coupling of each group."""
        return list(self._on_groups)

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Initialise each group's coupling from its dimensions; a shared one at the mean over groups."""
        if self.initialised:
            return
        if not self.shared:
            return super().initialise(z, z_prime)
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        starts: list[dict[str, Tensor]] = []
        for part in self.parts:
            own = deepcopy(part)
            own.initialise(z, z_prime)
            starts.append(own.state_dict())
        mean = {
            name.removeprefix("coupling."): torch.stack([start[name] for start in starts]).mean(0)
            if value.is_floating_point()
            else value
            for name, value in starts[0].items()
        }
        self.couplings[0].load_state_dict(mean)

    def _check_widths(self, width: int, width_prime: int) -> None:
        every = {d for group in self.groups for d in group}
        missing = sorted(set(range(width // self.order)) - every)
        if missing and self.rest is None and max(every) < width // self.order:
            raise ValueError(
                f"Expected every dimension in a group; got latents of widths {width // self.order} and {width_prime}, "
                f"of which {missing} are in no group. Add them to one, or leave them independent with rest='free'."
            )
        super()._check_widths(width, width_prime)


def _indices(name: str, chosen: Sequence[int]) -> list[int]:
    indices = list(chosen) if isinstance(chosen, Iterable) else []
    whole = all(isinstance(i, Integral) and not isinstance(i, bool) for i in indices)
    if not indices or not whole or min(indices) < 0 or len(set(indices)) != len(indices):
        raise ValueError(f"Expected {name} as distinct indices >= 0, at least one, such as [0, 1]; got {chosen!r}.")
    return indices
