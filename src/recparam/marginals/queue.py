"""R from the batch and the batches before it, whose latents are of earlier encoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recparam.data.labels import Labels
from recparam.marginals.bank import Bank, Queries
from recparam.marginals.base import Marginal, Recognised, Scored, check_exclusion
from recparam.marginals.encoded import Encode
from recparam.marginals.joint import RecognitionJoint, Situation
from recparam.recognition import Dirac, Particles
from recparam.utils.checks import check_count
from recparam.utils.shown import shown


class QueueMarginal(Marginal):
    """The bank is the batch and the latents of recent training batches, as their encoder was then.

    Many negatives at the price of a batch, but old latents are no sample of today's R: with a queue every value
    is an estimate. Each training step's forward pass pushes the batch; `Bank.staleness` says how old the rows are.
    The queue is part of the model's state.

    Args:
        size: Rows kept in addition to the batch.
        widths: Widths of the latents, one per observation.
        exclude_within: As in `Bank`; needs `labels=` with times at each call.

    Raises:
        ValueError: A size or width below one, fewer than two widths, or a negative `exclude_within`.
    """

    age: Tensor
    cursor: Tensor
    identities: Tensor
    sessions: Tensor
    times: Tensor

    def __init__(self, size: int, *, widths: Sequence[int], exclude_within: float | None = None) -> None:
        super().__init__()
        check_count("size", size)
        if len(widths) < 2:
            raise ValueError(f"Expected widths of at least two latents; got {list(widths)}.")
        for j, width in enumerate(widths):
            check_count(f"widths[{j}]", width)
            self.register_buffer(f"latents_{j}", torch.zeros(size, width))
        check_exclusion(exclude_within)
        self.size, self.widths, self.exclude_within = size, list(widths), exclude_within
        self.register_buffer("age", torch.full((size,), -1))  # -1: not filled yet
        self.register_buffer("cursor", torch.tensor(0))
        self.register_buffer("identities", torch.full((size,), -1))
        self.register_buffer("sessions", torch.full((size,), -1))
        self.register_buffer("times", torch.full((size,), torch.nan, dtype=torch.float64))

    def extra_repr(self) -> str:
        """The size of the queue, and how much of it is filled."""
        filled = int((self.age >= 0).sum())
        return shown(size=self.size, widths=self.widths, exclude_within=self.exclude_within, filled=filled)

    def check(self, observations: Sequence[Tensor], rows: Tensor | None) -> None:
        """Raise ValueError for another number of observations, or if `rows` are given."""
        if rows is not None:
            raise ValueError("Expected rows=None with QueueMarginal; rows index the data set of a DatasetMarginal.")
        if len(observations) != len(self.widths):
            raise ValueError(
                f"Expected {len(self.widths)} observations, as in the QueueMarginal; got {len(observations)}."
            )
        if len(observations[0]) < 2 and bool((self.age < 0).all()):
            raise ValueError("Expected a batch of at least 2 observations while the queue is empty; got 1.")

    def recognised(self, scored: Scored, *, encode: Encode) -> Recognised:
        """Put the batch and the queue into one bank.

        Raises:
            ValueError: Stochastic recognition models, widths other than the queue's, or row weights.
        """
        self._check_scored(scored)
        filled = (self.age >= 0).nonzero()[:, 0]
        batch = scored.particles.latents
        latents = tuple(torch.cat([z, self._queue(j)[filled].to(z)[None]], 1) for j, z in enumerate(batch))
        size = latents[0].shape[1]
        age = torch.cat([self.age.new_zeros(batch[0].shape[1]), self.age[filled]])
        labels = scored.labels
        if labels is not None:
            old = {"identities": self.identities, "sessions": self.sessions, "times": self.times}
            parts = {name: getattr(labels, name) for name in old}
            labels = Labels(
                **{n: None if p is None else torch.cat([p, old[n][filled].to(p)]) for n, p in parts.items()}
            )
        bank = Bank(
            [Dirac(z[0]) for z in latents],
            Particles(latents, latents[0].new_zeros(1, size), exact=True),
            labels=labels,
            source="queue",
            exclude_within=self.exclude_within,
            age=age,
        )
        own = torch.arange(batch[0].shape[1], device=age.device)
        joint = RecognitionJoint(bank, situation=Situation.QUEUE)
        return Recognised(scored.particles, joint, Queries(own, scored.labels), scored.weights)

    @torch.no_grad()
    def remember(self, scored: Scored) -> None:
        """Push the batch, in place of the oldest rows."""
        count = min(self.size, scored.weights.shape[0])
        places = (int(self.cursor) + torch.arange(count, device=self.age.device)) % self.size
        self.age[self.age >= 0] += 1
        for j, z in enumerate(scored.particles.latents):
            self._queue(j)[places] = z[0, -count:].detach().to(self._queue(j))
        self.age[places] = 1  # by the next step
        self.cursor.fill_((int(self.cursor) + count) % self.size)
        for name, unknown in (("identities", -1), ("sessions", -1), ("times", torch.nan)):
            part = None if scored.labels is None else getattr(scored.labels, name)
            kept = getattr(self, name)
            kept[places] = unknown if part is None else part[-count:].to(kept)

    def _queue(self, index: int) -> Tensor:
        return self.get_buffer(f"latents_{index}")

    def _check_scored(self, scored: Scored) -> None:
        if not all(isinstance(d, Dirac) for d in scored.distributions):
            raise ValueError("Expected deterministic recognition models with a QueueMarginal; got stochastic ones.")
        widths = [z.shape[-1] for z in scored.particles.latents]
        if widths != self.widths:
            raise ValueError(f"Expected latents of widths {self.widths}, as in the QueueMarginal; got {widths}.")
        if not bool((scored.weights == scored.weights[0]).all()):
            raise ValueError("Expected weights=None with a QueueMarginal, whose rows count equally; got weights.")
