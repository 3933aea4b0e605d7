"""R from a whole data set: the empirical marginal of Appendix A."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recparam.data.labels import Labels
from recparam.marginals.bank import Bank, Queries
from recparam.marginals.base import Marginal, Recognised, Scored, check_exclusion, normalised_weights
from recparam.marginals.encoded import Encode, EncodedData
from recparam.marginals.joint import RecognitionJoint, Situation
from recparam.recognition import enumerable, recognise
from recparam.utils.checks import check_finite, check_tensor, is_whole, observation_name
from recparam.utils.shown import shown


class DatasetMarginal(Marginal):
    """The bank is a whole data set: the empirical marginal (App. A.1).

    Equation: 28, 29

        R_base(x) = 1/N sum_i delta(x - x_i),    R(z) = 1/N sum_i R_phi(z|x_i)

    Scoring rows of that data set gives exact values under the empirical base. Rows are recognised when the
    scored tensors are the data set's own, or named by `rows=`. The value of other observations is an estimate;
    where the caller knows that the data set does not hold them, `side="upper"` makes it an upper bound
    (see docs/theory.md).

    The data set moves with the model (`model.to("cuda")`), and is no part of its `state_dict`, so that no checkpoint
    holds it.

    By default the data set is encoded at each call, with gradients. `hold=True` encodes it once, in chunks, and
    keeps the result until `refresh()`. A held bank has no gradient in the encoder: where the scored rows have one,
    as in training, the gradient lacks the bank's part and the value is called an estimate; score under
    `torch.no_grad()` for an exact one. If the encoder has changed since, a UserWarning says so, and every value is
    an estimate, whatever the `side`.

    Args:
        observations: One tensor (N, ...) per observation.
        weights: Weight of each row, shape (N,), not negative; normalised here. None means 1/N.
        labels: Who the rows are.
        exclude_within: As in `Bank`. A mean that leaves rows out is no longer the empirical marginal's: the data
            set is then read as a sample of the true marginal, as a batch is.
        hold: Whether to keep the encoded bank; encoding is then in evaluation mode, and the data set takes the model's
            dtype but stays on its device.
        chunk: Rows per pass of the encoder where the bank is held.

    Raises:
        NonFiniteError: An observation holds NaN or infinity.
        ValueError: Fewer than two observations or rows, different numbers of rows, no tensors, bad weights,
            labels of another length, `exclude_within` without times, or a chunk below one.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> x = torch.tensor([[0.0], [10.0]])
        >>> data = rp.DatasetMarginal(x, x, hold=True)
        >>> prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
        >>> rp.RPM(rp.Deterministic(torch.nn.Identity()), prior, marginal=data).elbo(x, x)
        ELBO - const = 0.693 nats (exact, ceiling 0.693)
    """

    def __init__(
        self,
        *observations: Tensor,
        weights: Float[Tensor, " N"] | None = None,
        labels: Labels | None = None,
        exclude_within: float | None = None,
        hold: bool = False,
        chunk: int = 1024,
    ) -> None:
        super().__init__()
        if len(observations) < 2:
            raise ValueError(f"Expected at least two observations (x, x_prime); got {len(observations)}.")
        for j, x in enumerate(observations):
            check_tensor(f"{observation_name(j)} of the DatasetMarginal", x)
        sizes = [x.shape[0] if x.ndim else 0 for x in observations]
        if len(set(sizes)) > 1 or sizes[0] < 2:
            raise ValueError(f"Expected observations with the same number of rows, at least 2; got {sizes}.")
        for j, x in enumerate(observations):
            check_finite(f"{observation_name(j)} of the DatasetMarginal", x)
        self._data = EncodedData(observations, hold=hold, chunk=chunk, name="DatasetMarginal")
        self.weights = None if weights is None else normalised_weights(weights, sizes[0])
        if labels is not None and len(labels) != sizes[0]:
            raise ValueError(f"Expected labels of the {sizes[0]} rows of the DatasetMarginal; got {len(labels)}.")
        check_exclusion(exclude_within)
        if exclude_within is not None and (labels is None or labels.times is None):
            raise ValueError("Expected labels= with times, which exclude_within= refers to; got none.")
        self.labels, self.exclude_within = labels, exclude_within

    @property
    def observations(self) -> tuple[Tensor, ...]:
        """x, x', ...: one tensor (N, ...) each."""
        return self._data.observations

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DatasetMarginal:
        self._data.moved(fn)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """The size of the bank, and how it is used."""
        weighted = True if self.weights is not None else None
        size, hold = len(self.observations[0]), self._data.hold
        return shown(rows=size, weighted=weighted, exclude_within=self.exclude_within, hold=hold)

    def check(self, observations: Sequence[Tensor], rows: Tensor | None) -> None:
        """Raise ValueError unless there are as many observations, and `rows` are where the data set holds them."""
        data, size = self.observations, len(self.observations[0])
        if len(data) != len(observations):
            raise ValueError(f"Expected {len(data)} observations, as in the DatasetMarginal; got {len(observations)}.")
        super().check(observations, rows)
        if rows is None:
            return
        inside = is_whole(rows) and rows.shape == (len(observations[0]),)
        if not inside or int(rows.min()) < 0 or int(rows.max()) >= size:
            raise ValueError(
                f"Expected rows as {len(observations[0])} indices from 0 to {size - 1}, one per scored "
                f"observation; got {rows.dtype} of shape {tuple(rows.shape)}."
            )
        for j, (held, scored) in enumerate(zip(data, observations, strict=True)):
            if not _same(held[rows.to(held.device, torch.long)], scored):
                raise ValueError(
                    f"Expected {observation_name(j)} to be rows `rows` of the DatasetMarginal; got other values, "
                    f"shape or dtype. Score those rows, or leave rows=None for observations that are not in it."
                )

    def refresh(self) -> None:
        """Forget the held bank; the next call encodes the data set with the recognition model as it is then."""
        self._data.refresh()

    def remember(self, scored: Scored) -> None:
        """Count the training steps that a held bank has seen."""
        self._data.steps += 1

    def recognised(self, scored: Scored, *, encode: Encode) -> Recognised:
        """Encode the data set and put the scored rows, as `check` lets them pass, with it."""
        device = scored.observations[0].device
        rows = None if scored.rows is None else scored.rows.to(device, torch.long)
        if rows is None and all(_same(a, b) for a, b in zip(self.observations, scored.observations, strict=True)):
            rows = torch.arange(len(self.observations[0]), device=device)
        particles = scored.particles
        gradients = any(value.requires_grad for value in (*particles.latents, particles.log_weights))
        data = self._data(encode, recognition=scored.recognition, device=device, gradients=gradients)
        encoded, age = data.distributions, data.age
        weights, bank_weights = scored.weights, None
        if self.weights is not None:
            bank_weights = self.weights.to(weights)
            if rows is not None:
                weights = weights * bank_weights[rows]
                if not bool(weights.sum() > 0):
                    raise ValueError("Expected a scored row of positive weight in the DatasetMarginal; got none.")
                weights = weights / weights.sum()
        situation = Situation.INDEPENDENT
        if rows is not None and age is None:  # an old bank holds other latents of the scored rows
            empirical = Situation.EXACT if enumerable(encoded) else Situation.EXACT_SAMPLED
            situation = empirical if self.exclude_within is None else Situation.BATCH
        samples = scored.particles.latents[0].shape[0]
        joints = [
            RecognitionJoint(
                Bank(
                    encoded,
                    recognise(encoded, num_samples=samples, generator=scored.generator),
                    weights=bank_weights,
                    labels=None if self.labels is None else self.labels.map(lambda part: part.to(device)),
                    source="data set",
                    exclude_within=self.exclude_within,
                    age=age,
                ),
                situation=situation,
            )
            for _ in range(2 if situation is Situation.EXACT_SAMPLED else 1)
        ]
        redraw = joints[1] if len(joints) > 1 else None
        return Recognised(scored.particles, joints[0], Queries(rows, scored.labels), weights, redraw)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.to(b.device), b)))
