"""Base distributions that can be sampled or even evaluated, and the marginals R(z) that they make (App. A.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.marginals.bank import Bank, Queries
from recparam.marginals.base import Marginal, Recognised, Scored
from recparam.marginals.encoded import Encode, EncodedData
from recparam.marginals.joint import RecognitionJoint, Situation
from recparam.ops.precision import at_least_single, full_precision
from recparam.recognition import recognise
from recparam.utils.checks import check_count, check_finite, check_tensor, observation_name
from recparam.utils.shown import shown

Sampler = Callable[[int, torch.Generator | None], Tensor]
"""Draws observations, batch first: `sampler(n, generator)` has n rows."""


@runtime_checkable
class BaseDensity(Protocol):
    """R_base of one observation: a density that can be sampled and evaluated."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n observations, batch first; the generator is the source of randomness."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """log R_base(x) of a batch, shape (B,), in nats."""
        ...


class EstimatedMarginal(Marginal):
    """The base distributions are models of x and of x', each fitted alone: the estimated marginal (App. A.3).

    R(z), R(z') and Z(z) are the pushforwards of these same bases, estimated from samples that are drawn once, here.
    If the bases have densities the constant of the ELBO is known, so that `RPM.log_prob` is a log-density;
    `RPM.sample` needs samplers alone. Nothing here knows pairs: R(z, z'), and with it `rp.OptimalPrior`, is refused;
    `RPM.mutual_information` and `RPM.decompose` take the scored batch as their bank.

    The Monte Carlo error of M samples: -log of a mean over them exceeds, in expectation, -log of what they estimate
    (Jensen's inequality), by about Var(f) / (2 M Z^2) for Z. With an InfoNCE prior that concerns Z(z) alone; with a
    parametric prior R(z) and R(z'), both in the same direction. So values tend to be too large, and `side="upper"`
    calls them the upper bounds that they are; for an InfoNCE prior `side="lower"` gives a lower one. Draws of a
    stochastic z add the opposite error to `log_marginal` and `log_prob`, which are then estimates. All rows share
    the samples, and P(x, x') integrates to one up to an error of order M^(-1/2).

    The samples and those bases that are modules move with the model; a generator for later draws is then one of its
    device. Neither is part of its `state_dict`, nor are their parameters among the model's.

    Args:
        bases: R_base for each observation: a `BaseDensity`, or a callable `sampler(n, generator)` that only samples.
        num_samples: M, how many samples of each are drawn.
        generator: Source of the samples.
        hold: Whether to encode the samples once and keep the result; as in `DatasetMarginal`.
        chunk: Rows per pass of the encoder where the bank is held.

    Raises:
        NonFiniteError: A base draws NaN or infinity.
        ValueError: Fewer than two bases, something else than a base, num_samples or chunk below one, or a sampler
            that does not return a tensor of as many rows.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> normal = lambda n, generator: torch.randn(n, 1, generator=generator)
        >>> marginal = rp.EstimatedMarginal(normal, normal, num_samples=64)
        >>> prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
        >>> model = rp.RPM(rp.Deterministic(torch.nn.Identity()), prior, marginal=marginal)
        >>> model.elbo(torch.zeros(1, 1), torch.zeros(1, 1), side="upper").kind
        'upper'
    """

    def __init__(
        self,
        *bases: BaseDensity | Sampler,
        num_samples: int = 1024,
        generator: torch.Generator | None = None,
        hold: bool = False,
        chunk: int = 1024,
    ) -> None:
        super().__init__()
        check_count("num_samples", num_samples)
        if len(bases) < 2:
            raise ValueError(f"Expected at least two bases (of x and of x_prime); got {len(bases)}.")
        for j, base in enumerate(bases):
            if not callable(getattr(base, "sample", base)):
                raise ValueError(
                    f"Expected the base of {observation_name(j)} with `sample` and `log_prob`, such as "
                    f"rp.GaussianMixtureBase, or as a callable sampler(n, generator); got {base!r}."
                )
        self.bases = bases  # in a tuple, which torch does not register
        samples = self.sample_bases(num_samples, generator)
        self._data = EncodedData(samples, hold=hold, chunk=chunk, name="EstimatedMarginal")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EstimatedMarginal:
        for base, like in zip(self.bases, self._data.moved(fn), strict=True):
            if isinstance(base, nn.Module):
                base.to(like.device, at_least_single(like).dtype if like.is_floating_point() else None)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """The bases, and the size of the bank."""
        names = [getattr(base, "__name__", type(base).__name__) for base in self.bases]
        return shown(bases=names, num_samples=len(self._data.observations[0]), hold=self._data.hold)

    def refresh(self) -> None:
        """Forget the held bank; the next call encodes the same samples with the recognition model as it is then."""
        self._data.refresh()

    def check(self, observations: Sequence[Tensor], rows: Tensor | None) -> None:
        """Raise ValueError for `rows`, or observations of another number, shape or dtype than the bases draw."""
        if rows is not None:
            raise ValueError("Expected rows=None with EstimatedMarginal; rows index the data set of a DatasetMarginal.")
        if len(observations) != len(self.bases):
            raise ValueError(f"Expected {len(self.bases)} observations, as there are bases; got {len(observations)}.")
        for j, (x, drawn) in enumerate(zip(observations, self._data.observations, strict=True)):
            if x.shape[1:] != drawn.shape[1:] or x.dtype != drawn.dtype:
                raise ValueError(
                    f"Expected {observation_name(j)} as its base draws it, rows of {drawn.dtype} and shape "
                    f"{tuple(drawn.shape[1:])}; got {x.dtype} and {tuple(x.shape[1:])}."
                )

    def recognised(self, scored: Scored, *, encode: Encode) -> Recognised:
        """Encode the samples and put the scored rows with them."""
        self.check(scored.observations, scored.rows)
        particles = scored.particles
        gradients = any(value.requires_grad for value in (*particles.latents, particles.log_weights))
        device = scored.observations[0].device
        data = self._data(encode, recognition=scored.recognition, device=device, gradients=gradients)
        draws = recognise(data.distributions, num_samples=len(particles.latents[0]), generator=scored.generator)
        bank = Bank(data.distributions, draws, source="base", age=data.age)
        joint = RecognitionJoint(bank, situation=Situation.INDEPENDENT)
        return Recognised(particles, joint, Queries(labels=scored.labels), scored.weights)

    def remember(self, scored: Scored) -> None:
        """Count the training steps that a held bank has seen."""
        self._data.steps += 1

    def log_base(self, observations: Sequence[Tensor]) -> Float[Tensor, " B"]:
        """The constant that every other marginal leaves out.

        Equation: 13

            const = log R_base(x) R_base(x')

        Args:
            observations: One tensor (B, ...) per observation.

        Returns:
            Shape (B,), in nats; -inf where a base has no density.

        Raises:
            ValueError: A base only samples, or a log_prob that is not one number a row.
        """
        without = [observation_name(j) for j, base in enumerate(self.bases) if not hasattr(base, "log_prob")]
        if without:
            raise ValueError(
                f"Expected bases with log_prob; got a marginal without log_prob asked for a log-density (the base of "
                f"{' and of '.join(without)} only samples). Use rp.GaussianMixtureBase or another BaseDensity there; "
                f"model.log_marginal and model.sample do without."
            )
        self.check(observations, None)
        total = torch.zeros(len(observations[0]), device=observations[0].device)
        for j, (base, x) in enumerate(zip(self.bases, observations, strict=True)):
            assert isinstance(base, BaseDensity)
            with full_precision(x.device):
                values = base.log_prob(at_least_single(x))
            if values.shape != x.shape[:1] or bool(values.isnan().any()):
                raise ValueError(
                    f"Expected log_prob of the base of {observation_name(j)} of shape ({len(x)},) and without NaN; got "
                    f"{tuple(values.shape)}."
                )
            total = total + values
        return total

    def sample_bases(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """n independent draws of each base.

        Raises:
            NonFiniteError: A base draws NaN or infinity.
            ValueError: A base does not return a tensor of n rows.
        """
        drawn: list[Tensor] = []
        for j, base in enumerate(self.bases):
            draw: Any = getattr(base, "sample", base)
            x = draw(n, generator)
            name = f"samples of the base of {observation_name(j)}"
            check_tensor(name, x)
            if not x.ndim or len(x) != n:
                raise ValueError(f"Expected {name} with {n} rows; got shape {tuple(x.shape)}.")
            check_finite(name, x)
            held = self._data.observations[j] if hasattr(self, "_data") else x  # of the dtype that encoders take
            drawn.append(x.detach().to(held.dtype))
        return tuple(drawn)
