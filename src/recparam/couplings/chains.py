"""A coupling along a chain of latents: which steps it scores, and the first ones, before which too few latents are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recparam.couplings.base import Coupling
from recparam.ops import Score


class FirstOrder(Coupling):
    """A coupling of order p as one of order one, whose z is the whole context."""

    def __init__(self, coupling: Coupling) -> None:
        super().__init__()
        self.coupling = coupling

    @property
    def initialised(self) -> bool:
        """Whether the coupling is."""
        return self.coupling.initialised

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return self.coupling(z, z_prime)

    def score(self) -> Score:
        """That of the coupling."""
        return self.coupling.score()

    def _check_widths(self, width: int, width_prime: int) -> None:
        self.coupling.check_widths(width, width_prime)


@dataclass(frozen=True)
class ChainStep:
    """One factor of a chain's prior: log f of the latents before z_t and z_t.

    Args:
        index: t, from zero, of the latent that is predicted.
        coupling: log f, of an order of at most t.
    """

    index: int
    coupling: Coupling

    def context(self, latents: Sequence[Tensor]) -> Tensor:
        """The latents before, as many as the coupling reads, side by side and oldest first."""
        order = self.coupling.order
        if order == 1:
            return latents[self.index - 1]
        return torch.cat(list(latents[self.index - order : self.index]), dim=-1)

    def check_widths(self, widths: Sequence[int]) -> None:
        """Raise ValueError if latents of these widths do not fit."""
        before = list(widths[self.index - self.coupling.order : self.index])
        if len({*before, widths[self.index]}) > 1 and self.coupling.order > 1:
            raise ValueError(
                f"Expected latents of one width for a coupling of order {self.coupling.order}; got {list(widths)}."
            )
        self.coupling.check_widths(sum(before), widths[self.index])


def chain_steps(coupling: Coupling, first: Coupling | None, length: int) -> list[ChainStep]:
    """The steps of a chain of J latents that have a coupling.

    From z_{p+1} on that is the whole coupling, p its order. Before, it is the factors that read no more latents than
    there are; where there are none, `first`; and where that is not given the step is left out.

    Args:
        coupling: log f.
        first: A coupling of order one, or None.
        length: J.

    Raises:
        ValueError: No step is left.
    """
    steps: list[ChainStep] = []
    for index in range(1, length):
        part = coupling if index >= coupling.order else coupling.at_most(index) or first
        if part is not None:
            steps.append(ChainStep(index, part))
    if not steps:
        raise ValueError(
            f"Expected windows of more than {coupling.order} latents for a coupling of order {coupling.order}; got "
            f"{length}. Give more observations at once, or a coupling of order 1 for the first steps, first=."
        )
    return steps


def steps_by_coupling(steps: Sequence[ChainStep], latents: Sequence[Tensor]) -> list[list[ChainStep]]:
    """The steps in lists of one coupling and one width, which can be scored together."""
    lists: dict[tuple[int, ...], list[ChainStep]] = {}
    for step in steps:
        widths = (latents[t].shape[-1] for t in range(step.index - step.coupling.order, step.index + 1))
        lists.setdefault((id(step.coupling), *widths), []).append(step)
    return list(lists.values())
