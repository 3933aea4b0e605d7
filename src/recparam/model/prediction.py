"""What follows a latent: P(z'|z) and, through the empirical marginal, P(x'|x), as a distribution over candidates."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution

from recparam.couplings import Coupling
from recparam.marginals import normalised_weights
from recparam.ops import (
    Score,
    pairwise_highest,
    pairwise_log_probs,
    pairwise_moments,
    pairwise_ranks,
    pairwise_sample,
)
from recparam.ops.precision import at_least_single
from recparam.priors import Prior
from recparam.recognition import Dirac, recognise
from recparam.utils.checks import check_count, check_finite, check_matrix, check_tensor


class Draws(NamedTuple):
    """Samples of P(z'|z) and P(x'|x).

    Args:
        indices: Candidates drawn, shape (A, num).
        rows: The rows of x' that they are latents of, shape (A, num): draws of P(x'|x).
        latents: z', shape (A, num, D').
    """

    indices: Tensor
    rows: Tensor
    latents: Tensor


GridBase = Literal["uniform"] | Tensor | Callable[[Tensor], Tensor]
"""How log R(z') on a grid is given: constant, a tensor (G,), or a function that returns one."""


@dataclass(frozen=True, eq=False)
class CredibleSet:
    """For each row the candidates of highest density, just enough to reach a probability.

    Args:
        prediction: Of which prediction.
        level: The probability asked for.
        threshold: Least log P(z'|z) / R(z') in the set, in nats, shape (A,).
        mass: Probability of the set, shape (A,); above the level by less than the last candidates' own.
        share: R(z') of the set, shape (A,): its probability for a prediction that ignores z; smaller is sharper.
    """

    prediction: Prediction
    level: float
    threshold: Tensor
    mass: Tensor
    share: Tensor

    def contains(self, targets: Int[Tensor, " _A"] | Float[Tensor, "_A _E"]) -> Bool[Tensor, " A"]:
        """Whether each row's target is in its set: less than the level is more probable than the target.

        Args:
            targets: Indices of candidates, shape (A,), or latents z', shape (A, D').

        Returns:
            Shape (A,).

        Raises:
            ValueError: As `Prediction.rank_probability`.
        """
        return self.prediction.ranks(targets)[0] < self.level


@dataclass(frozen=True, eq=False)
class Prediction:
    """P(z'|z) for A latents z, over the candidates z'_j of the empirical marginal.

        P(z'|z) = sum_j w_j f(z, z'_j) delta(z' - z'_j) / Z(z),   Z(z) = sum_j w_j f(z, z'_j)

    Where candidates are the latents of observations x', the same probabilities, added over the latents of one row,
    are P(x'|x). See also: Eqs. 21, 26, 28. Candidates rank by f = P(z'|z) / R(z') (up to Z): a candidate of weight
    two ranks as two of weight one. Nothing here has gradients, and no A x M matrix is ever held.

    Args:
        score: log f as the coupling's `score()`.
        z: Latents to predict from, shape (A, D).
        candidates: z'_j, shape (M, D').
        weights: w_j, shape (M,), not negative; normalised here. None means 1/M.
        rows: The row of x' that each candidate is a latent of, shape (M,); None means row j for candidate j.

    Raises:
        NonFiniteError: z or candidates hold NaN or infinity.
        ValueError: Shapes, dtypes or devices do not fit, or bad weights.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> f = rp.GaussianRBF(lengthscale=1.0)
        >>> predicted = rp.Prediction(f.score(), torch.zeros(1, 1), torch.tensor([[-1.0], [1.0], [9.0]]))
        >>> predicted.log_prob(torch.tensor([0])).exp()
        tensor([0.5000])
    """

    score: Score
    z: Tensor
    candidates: Tensor
    weights: Tensor | None = None
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        if not callable(self.score):
            raise ValueError(f"Expected score as a pairwise score, such as coupling.score(); got {self.score!r}.")
        for name in ("z", "candidates"):
            check_matrix(name, getattr(self, name))
            check_finite(name, getattr(self, name))
            object.__setattr__(self, name, at_least_single(getattr(self, name)))
        if self.z.dtype != self.candidates.dtype or self.z.device != self.candidates.device:
            raise ValueError(
                f"Expected z and candidates of one dtype and device; got {self.z.dtype} on {self.z.device} and "
                f"{self.candidates.dtype} on {self.candidates.device}. Use candidates.to(z)."
            )
        size = len(self.candidates)
        # Detached: a prediction is a statement about the model as it is, and keeps no graph alive.
        object.__setattr__(self, "z", self.z.detach())
        object.__setattr__(self, "candidates", self.candidates.detach())
        if self.weights is not None:
            object.__setattr__(self, "weights", normalised_weights(self.weights, size).detach().to(self.z))
        if self.rows is not None:
            check_tensor("rows", self.rows)
            if self.rows.shape != (size,) or self.rows.is_floating_point():
                raise ValueError(
                    f"Expected rows as whole numbers of shape ({size},), one per candidate; got {self.rows.dtype}, "
                    f"{tuple(self.rows.shape)}."
                )

    def __len__(self) -> int:
        return len(self.z)

    def __repr__(self) -> str:
        """Sizes alone."""
        return f"Prediction({len(self.z)} rows over {len(self.candidates)} candidates)"

    def log_prob(self, indices: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """log P(z'_j|z) of candidates.

        Args:
            indices: Candidates, one per row, shape (A,), or several, shape (A, k).

        Returns:
            As the indices, in nats; -inf for a candidate of weight zero.

        Raises:
            ValueError: Indices of another shape, or outside the candidates.
        """
        check_tensor("indices", indices)
        if indices.ndim not in (1, 2) or len(indices) != len(self.z) or not indices.numel():
            raise ValueError(
                f"Expected indices of shape ({len(self.z)},) or ({len(self.z)}, k); got {tuple(indices.shape)}."
            )
        flat = indices[:, None] if indices.ndim == 1 else indices
        values = pairwise_log_probs(self.score, self.z, self.candidates, flat, log_weights=self._log_weights)
        return values.reshape(indices.shape)

    def sample(self, num: int = 1, *, generator: torch.Generator | None = None) -> Draws:
        """Independent draws of P(z'|z), and of P(x'|x), for every row.

        Args:
            num: Draws per row.
            generator: Source of randomness; None uses torch's global one.

        Returns:
            Indices of the candidates, their rows of x', and their latents.

        Raises:
            ValueError: num is not a whole number of at least one.
        """
        check_count("num", num)
        chosen = pairwise_sample(
            self.score, self.z, self.candidates, num, log_weights=self._log_weights, generator=generator
        )
        rows = chosen.indices if self.rows is None else self.rows[chosen.indices]
        return Draws(chosen.indices, rows, self.candidates[chosen.indices])

    def mean(self) -> Float[Tensor, "A E"]:
        """E[z'|z], shape (A, D')."""
        return pairwise_moments(self.score, self.z, self.candidates, log_weights=self._log_weights).mean

    def covariance(self) -> Float[Tensor, "A E E"]:
        """Cov[z'|z], shape (A, D', D')."""
        moments = pairwise_moments(self.score, self.z, self.candidates, log_weights=self._log_weights, covariance=True)
        assert moments.covariance is not None
        return moments.covariance

    def credible_set(self, level: float) -> CredibleSet:
        """The candidates of highest density whose probability reaches a level, for every row.

        Args:
            level: Between 0 and 1, such as 0.95.

        Returns:
            Its density threshold, probability and size, and `contains` for targets.

        Raises:
            ValueError: A level outside (0, 1).
        """
        highest = pairwise_highest(self.score, self.z, self.candidates, level, log_weights=self._log_weights)
        return CredibleSet(self, level, *highest)

    def rank_probability(self, targets: Int[Tensor, " _A"] | Float[Tensor, "_A _E"]) -> Float[Tensor, " A"]:
        """The probability of the candidates at least as dense as the target: the credible set that it closes.

        Uniform on (0, 1) for targets that follow the prediction, where candidates are many.

        Args:
            targets: Indices of candidates, shape (A,), or latents z' that need not be candidates, shape (A, D').

        Returns:
            Shape (A,), in [0, 1].

        Raises:
            ValueError: Targets of another shape or dtype, outside the candidates, NaN or infinite.
        """
        above, tied = self.ranks(targets)
        return (above + tied).clamp_max(1)

    def ranks(
        self, targets: Int[Tensor, " _A"] | Float[Tensor, "_A _E"]
    ) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
        """The probability of the candidates denser than the target, and of those as dense, each (A,).

        Arguments and errors as in `rank_probability`, which is their sum.
        """
        check_tensor("targets", targets)
        if not targets.is_floating_point():
            if targets.shape != (len(self.z),):
                raise ValueError(
                    f"Expected targets as indices of shape ({len(self.z)},), one candidate per row; got "
                    f"{tuple(targets.shape)}. Latents z' are floating-point."
                )
        else:
            check_matrix("targets", targets, rows=len(self.z), width=self.candidates.shape[1])
            if targets.dtype != self.z.dtype or targets.device != self.z.device:
                raise ValueError(
                    f"Expected targets as z, {self.z.dtype} on {self.z.device}; got {targets.dtype} on "
                    f"{targets.device}. Use targets.to(prediction.z)."
                )
        above, tied = pairwise_ranks(self.score, self.z, self.candidates, targets, log_weights=self._log_weights)
        return above, tied

    @property
    def _log_weights(self) -> Tensor | None:
        return None if self.weights is None else self.weights.log()


def prediction_from(
    coupling: Coupling,
    now: Distribution,
    after: Distribution,
    *,
    weights: Float[Tensor, " N"] | None,
    num_samples: int,
    generator: torch.Generator | None,
) -> Prediction:
    """The prediction from encoded x, over the latents of encoded x'.

    Args:
        coupling: log f, as it is now.
        now: R(z|x), batch shape (A,); a latent that is not a point is drawn.
        after: R(z'|x'), batch shape (N,); its latents are enumerated or drawn.
        weights: Weight of each row of x', shape (N,), summing to one; None means equal.
        num_samples: Draws of z' for each x' where z' is not enumerable.
        generator: Source of draws.

    Raises:
        ValueError: Widths or dtypes that the coupling does not take.
    """
    if isinstance(now, Dirac):
        z = now.mean
    else:
        drawn = recognise([now], generator=generator)
        count = drawn.log_weights.shape[1]
        place = torch.zeros(count, dtype=torch.long, device=drawn.log_weights.device)
        if drawn.exact:  # every value with its probability, shape (K, A): one of them
            place = torch.multinomial(drawn.log_weights.exp().T, 1, generator=generator)[:, 0]
        z = drawn.latents[0][place, torch.arange(count, device=place.device)]
    particles = recognise([after], num_samples=num_samples, generator=generator)
    latents = particles.latents[0]
    copies, size = latents.shape[:2]
    candidates, rows = latents.flatten(0, 1), torch.arange(size, device=latents.device).repeat(copies)
    mass = None
    if weights is not None or (particles.exact and copies > 1):
        share = latents.new_full((size,), 1 / size) if weights is None else weights.to(latents)
        mass = (share * (particles.log_weights.exp() if particles.exact else 1 / copies)).expand(copies, size).flatten()
    coupling(z[:1], candidates[:1])  # complains of widths and dtypes in the user's words
    return Prediction(deepcopy(coupling.score()), z, candidates, mass, rows)


def grid_probabilities(
    prior: Prior, z: Float[Tensor, "A D"], grid: Float[Tensor, "G E"], *, base: GridBase
) -> Float[Tensor, "A G"]:
    """P(z'|z) on a grid of equal cells; arguments, errors and equation in `recparam.RPM.predict`."""
    check_matrix("z", z)
    check_matrix("grid", grid)
    check_finite("z", z)
    check_finite("grid", grid)
    z, grid = at_least_single(z), at_least_single(grid)
    if isinstance(base, str) and base == "uniform":
        log_base_G = grid.new_zeros(grid.shape[0])
    else:
        log_base_G = base(grid) if callable(base) else base
    if not isinstance(log_base_G, Tensor):
        raise ValueError(
            f"Expected base='uniform', a tensor or a callable that returns one; got {log_base_G!r}. "
            f"Use torch.as_tensor for numbers."
        )
    if log_base_G.shape != grid.shape[:1]:
        raise ValueError(
            f"Expected base of shape ({grid.shape[0]},), one log-density per grid point; got "
            f"{tuple(log_base_G.shape)}."
        )
    if bool((log_base_G.isnan() | log_base_G.isposinf()).any()):  # -inf says that R(z') is zero there
        raise ValueError("Expected base without NaN and +inf; got such log-densities. Zero density is -inf.")
    if bool(log_base_G.isneginf().all()):
        raise ValueError("Expected base above -inf at some grid point; got -inf, no density, on the whole grid.")
    logits_AG = prior.log_conditional(z, grid, log_base_G)
    lost_A = ~logits_AG.amax(-1).isfinite()
    if bool(lost_A.any()):
        raise ValueError(
            f"Expected z within reach of the grid; got row {int(lost_A.nonzero()[0])}, whose log-density overflows "
            f"at every grid point of positive base. Move the grid, or rescale z."
        )
    return logits_AG.softmax(-1)
