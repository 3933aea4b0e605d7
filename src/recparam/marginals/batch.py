"""R from the batch that is scored: the true-marginal reading of Appendix A."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recparam.marginals.bank import Bank, Queries
from recparam.marginals.base import Marginal, Recognised, Scored, check_exclusion
from recparam.marginals.encoded import Encode
from recparam.marginals.gathered import bank_of_all_processes
from recparam.marginals.joint import RecognitionJoint
from recparam.ops.collectives import processes
from recparam.utils.shown import shown


class BatchMarginal(Marginal):
    """The bank is the batch being scored: an estimate of the true marginal from a sample of it (App. A.2).

    Equation: 35, 36, 37

        R(z) = int dx P_true(x) R_phi(z|x) = E_{P_true(x)}[R_phi(z|x)] ~ 1/N sum_i R_phi(z|x_i)

    The same number as the empirical marginal's of the same rows (see also: Eq. 29), read as an estimate.

    Where torch.distributed has set up several processes, the batch is that of all of them, as under Lightning's
    DDP: each scores its own rows against the rows of all, and every process has to make the same calls. The mean of
    the values over processes is the mean over all rows, and so is its gradient after DDP's averaging, whatever
    the sizes of their batches; a ceiling is that of this mean.

    Args:
        exclude_within: As in `Bank`; needs `labels=` with times at each call.
        across_processes: Whether the bank is the batch of all processes. False keeps to this one's.

    Raises:
        ValueError: `exclude_within` is negative.
    """

    def __init__(self, *, exclude_within: float | None = None, across_processes: bool = True) -> None:
        super().__init__()
        check_exclusion(exclude_within)
        self.exclude_within, self.across_processes = exclude_within, across_processes

    def extra_repr(self) -> str:
        """What the bank leaves out, and whose rows it holds."""
        return shown(exclude_within=self.exclude_within, across_processes=self.across_processes)

    def check(self, observations: Sequence[Tensor], rows: Tensor | None) -> None:
        """Raise ValueError for a batch of one (it has no negative), or if `rows` are given."""
        size = observations[0].shape[0]
        if rows is not None:
            raise ValueError("Expected rows=None with BatchMarginal; rows index the data set of a DatasetMarginal.")
        if size < 2 and self._processes == 1:
            raise ValueError(f"Expected a batch of at least 2 observations (one has no negative); got {size}.")

    def recognised(self, scored: Scored, *, encode: Encode) -> Recognised:
        """Use the batch as its own bank.

        Raises:
            ValueError: A batch of one (it has no negative), or `rows` given.
        """
        self.check(scored.observations, scored.rows)
        weights, labels, window, count = scored.weights, scored.labels, self.exclude_within, self._processes
        encoded = (scored.distributions, scored.particles)
        if count > 1:
            bank, own, weights = bank_of_all_processes(*encoded, weights=weights, labels=labels, exclude_within=window)
        else:
            bank = Bank(*encoded, weights=weights, labels=labels, exclude_within=window)
            own = torch.arange(bank.size, device=weights.device)
        queries = Queries(own, scored.labels)
        return Recognised(scored.particles, RecognitionJoint(bank), queries, weights, processes=count)

    @property
    def _processes(self) -> int:
        return processes() if self.across_processes else 1
