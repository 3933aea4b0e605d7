"""Where R's bank comes from: the batch being scored, a data set, or a queue of recent batches (App. A)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from recparam.banks import Bank, Queries, bank_of_all_processes
from recparam.data.labels import Labels
from recparam.encoded import Encode, EncodedData
from recparam.joint import RecognitionJoint, Situation
from recparam.ops.collectives import processes
from recparam.recognition import Dirac, Particles, enumerable, recognise
from recparam.utils.checks import check_count, check_finite, check_tensor, is_finite_number, is_whole, observation_name


@dataclass(frozen=True)
class Scored:
    """The rows being scored, encoded.

    Args:
        observations: One tensor (B, ...) per observation.
        distributions: R_phi(z_j|x_j) of each.
        particles: Their latents (S, B, D_j).
        weights: Weight of each row in averages, shape (B,), summing to one.
        rows: The data set's index of each row, shape (B,), where the caller knows it.
        labels: Who the rows are.
        generator: Source of further draws.
        recognition: The recognition models, by whose change a held bank is known to be old.
    """

    observations: Sequence[Tensor]
    distributions: Sequence[Distribution]
    particles: Particles
    weights: Tensor
    rows: Tensor | None = None
    labels: Labels | None = None
    generator: torch.Generator | None = None
    recognition: Sequence[nn.Module] = ()


@dataclass(frozen=True)
class Recognised:
    """What a bound is computed from: latents of the scored rows, the joint R, and who is who.

    Args:
        particles: Latents of the scored rows (S, B, D_j), of R or of a free posterior.
        joint: R.
        queries: Where the scored rows stand to its bank.
        weights: Weight of each scored row in averages, shape (B,), summing to one (over processes: to their number).
        redraw: A second joint with independent latents, where latents are sampled under the empirical base.
        processes: Among how many processes the rows of the bank are divided, each of which scores its own.
        recognition: Latents of R, where `particles` are a free posterior's.
        integrated: R_phi(z_j|x_j) of the scored rows where expectations under R are to be closed forms; None where
            they are means over latents.
    """

    particles: Particles
    joint: RecognitionJoint
    queries: Queries
    weights: Tensor
    redraw: RecognitionJoint | None = None
    processes: int = 1
    recognition: Particles | None = None
    integrated: Sequence[Distribution] | None = None

    @property
    def whole(self) -> bool:
        """Whether the scored rows are the bank's own, all of them, with its weights: their average is that under R.

        Of a bank that is divided among processes, the others' rows are scored elsewhere.
        """
        own, bank, count = self.queries.own, self.joint.bank, self.processes
        if own is None:
            return False
        every = torch.arange(bank.size, device=own.device)
        if count == 1 and not (len(own) == bank.size and torch.equal(own.sort().values, every)):
            return False
        return torch.allclose(self.weights, bank.weights[own] * count)

    def in_closed_form(self, distributions: Sequence[Distribution]) -> Recognised:
        """The same with the expectations under R_phi(z_j|x_j), of the scored rows and the bank, in closed form.

        Under the empirical base Z(z) is then a finite sum again.
        """
        joint = self.joint
        if joint.situation == "exact_sampled":
            joint = RecognitionJoint(joint.bank, situation="exact")
        return replace(self, joint=joint, redraw=None, integrated=distributions)


class Marginal(ABC):
    """Where R's bank comes from."""

    def check(self, observations: Sequence[Tensor], rows: Tensor | None) -> None:
        """Raise ValueError if the scored rows do not go with the bank; `RPM` asks before it encodes anything."""
        if rows is not None:
            check_tensor("rows", rows)

    @abstractmethod
    def recognised(self, scored: Scored, *, encode: Encode) -> Recognised:
        """Put the scored rows beside their bank."""

    def remember(self, scored: Scored) -> None:  # noqa: B027 (nothing to keep is the common case)
        """Keep what later calls may need; `RPM` calls it after each training step's forward pass."""

    def log_base(self, observations: Sequence[Tensor]) -> Tensor:
        """log R_base(x) R_base(x') of each row, shape (B,); ValueError where it is not known. See also: Eq. 13."""
        raise ValueError(self._unknown_base("without log_prob asked for a log-density"))

    def sample_bases(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """n independent draws of R_base(x), R_base(x'), ...; ValueError where they cannot be drawn."""
        raise ValueError(self._unknown_base("without base distributions asked for samples"))

    def _unknown_base(self, got: str) -> str:
        return (
            f"Expected marginal=rp.EstimatedMarginal(base, base_prime), which knows R_base; got a marginal {got} "
            f"({type(self).__name__})."
        )


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
        _check_exclusion(exclude_within)
        self.exclude_within, self.across_processes = exclude_within, across_processes

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


class DatasetMarginal(Marginal):
    """The bank is a whole data set: the empirical marginal (App. A.1).

    Equation: 28, 29

        R_base(x) = 1/N sum_i delta(x - x_i),    R(z) = 1/N sum_i R_phi(z|x_i)

    Scoring rows of that data set gives exact values under the empirical base. Rows are recognised when the
    scored tensors are the data set's own, or named by `rows=`. The value of other observations is an estimate;
    where the caller knows that the data set does not hold them, `side="upper"` makes it an upper bound
    (see docs/theory.md).

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
        hold: Whether to keep the encoded bank; encoding is then in evaluation mode.
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
        if len(observations) < 2:
            raise ValueError(f"Expected at least two observations (x, x_prime); got {len(observations)}.")
        for j, x in enumerate(observations):
            check_tensor(f"{observation_name(j)} of the DatasetMarginal", x)
        sizes = [x.shape[0] if x.ndim else 0 for x in observations]
        if len(set(sizes)) > 1 or sizes[0] < 2:
            raise ValueError(f"Expected observations with the same number of rows, at least 2; got {sizes}.")
        for j, x in enumerate(observations):
            check_finite(f"{observation_name(j)} of the DatasetMarginal", x)
        self.observations = observations
        self._data = EncodedData(observations, hold=hold, chunk=chunk, name="DatasetMarginal")
        self.weights = None if weights is None else normalised_weights(weights, sizes[0])
        if labels is not None and len(labels) != sizes[0]:
            raise ValueError(f"Expected labels of the {sizes[0]} rows of the DatasetMarginal; got {len(labels)}.")
        _check_exclusion(exclude_within)
        if exclude_within is not None and (labels is None or labels.times is None):
            raise ValueError("Expected labels= with times, which exclude_within= refers to; got none.")
        self.labels, self.exclude_within = labels, exclude_within

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
        """Encode the data set and put the scored rows, as `check` lets them pass, beside it."""
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
        situation: Situation = "independent"
        if rows is not None and age is None:  # an old bank holds other latents of the scored rows
            situation = "exact" if enumerable(encoded) else "exact_sampled"
            situation = situation if self.exclude_within is None else "batch"
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
            for _ in range(2 if situation == "exact_sampled" else 1)
        ]
        redraw = joints[1] if len(joints) > 1 else None
        return Recognised(scored.particles, joints[0], Queries(rows, scored.labels), weights, redraw)


class QueueMarginal(Marginal, nn.Module):
    """The bank is the batch and the latents of recent training batches, as their encoder was then.

    Many negatives at the price of a batch, but old latents are no sample of today's R: with a queue every value
    is an estimate. Each training step's forward pass pushes the batch; `Bank.staleness` says how old the rows are.
    The queue is part of the model's state.

    Args:
        size: Rows kept beside the batch.
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
        _check_exclusion(exclude_within)
        self.size, self.widths, self.exclude_within = size, list(widths), exclude_within
        self.register_buffer("age", torch.full((size,), -1))  # -1: not filled yet
        self.register_buffer("cursor", torch.tensor(0))
        self.register_buffer("identities", torch.full((size,), -1))
        self.register_buffer("sessions", torch.full((size,), -1))
        self.register_buffer("times", torch.full((size,), torch.nan, dtype=torch.float64))

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
        joint = RecognitionJoint(bank, situation="queue")
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


def _check_exclusion(exclude_within: float | None) -> None:
    if exclude_within is not None and (not is_finite_number(exclude_within) or exclude_within < 0):
        raise ValueError(f"Expected exclude_within >= 0, a finite span of time; got {exclude_within!r}.")


def normalised_weights(weights: Tensor, size: int) -> Tensor:
    """Weights (size,) that sum to one; ValueError for a wrong type or shape, a negative or a non-finite entry."""
    check_tensor("weights", weights)
    good = weights.shape == (size,) and bool(torch.isfinite(weights).all()) and bool((weights >= 0).all())
    if not good or not bool(weights.sum() > 0):
        raise ValueError(
            f"Expected weights of shape ({size},), finite, not negative, with a positive sum; "
            f"got shape {tuple(weights.shape)}."
        )
    return weights / weights.sum()


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.to(b.device), b)))
