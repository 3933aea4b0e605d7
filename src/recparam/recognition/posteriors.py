"""Approximate posteriors Q(z_1..z_J | x_1..x_J): the recognition model itself, or free of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from recparam.ops.precision import at_least_single, full_precision
from recparam.recognition.models import DensityError, Dirac
from recparam.recognition.particles import Particles, recognise
from recparam.utils.checks import check_count, check_finite, check_tensor, explain_dtype, is_whole

Family = Literal["gaussian", "full gaussian", "categorical"]
"""What a free Q is, jointly over all latents of a tuple.

gaussian: independent Gaussians; full gaussian: one Gaussian with any covariance, between z and z' too;
categorical: any table over the values of (z, z').
"""


class Posterior(nn.Module, ABC):
    """Q(z_1..z_J|x_1..x_J), seen through latents that stand for the expectation under it.

    One of your own implements `forward`; `recparam.testing.check_posterior` checks it.
    """

    takes_rows: ClassVar[bool] = False
    """Whether `rows=` chooses this posterior's own parameters, and so is given whatever the marginal."""

    @abstractmethod
    def forward(
        self,
        distributions: Sequence[Distribution],
        observations: Sequence[Tensor],
        *,
        rows: Tensor | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Particles:
        """Latents of Q, and how far its density is from the recognition model's at them.

        Args:
            distributions: R_phi(z_j|x_j) of each observation, batch shape (B,).
            observations: x_1..x_J, batch first.
            rows: Which pair each row is, shape (B,), where the caller says so.
            num_samples: Draws per row where latents are sampled.
            generator: Source of randomness; None uses torch's global one.

        Returns:
            Particles whose weights are Q's, reparameterised where they are drawn, and whose `log_correction` is
            log prod_j R_phi(z_j|x_j) - log Q (None where Q is R).
        """


class RecognitionPosterior(Posterior):
    """The paper's choice: Q is the recognition model itself.

    Equation: 14

        Q(z, z'|x, x') = R_phi(z|x) R_phi(z'|x')

    so that log R_phi R_phi' - log Q vanishes from the ELBO.
    """

    def forward(
        self,
        distributions: Sequence[Distribution],
        observations: Sequence[Tensor],
        *,
        rows: Tensor | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Particles:
        """Latents that stand for the expectation under Q; see `recparam.recognition.recognise`."""
        return recognise(distributions, num_samples=num_samples, generator=generator)


class FreePosterior(Posterior):
    """A joint Q_psi(z, z'|x, x') whose parameters say how it differs from the recognition model.

    With mu and sigma the means and standard deviations of R_phi(z|x) R_phi(z'|x'), all latents side by side,

        gaussian, full gaussian:    (z, z') = mu + sigma (m + L e),   e ~ N(0, I)
        categorical:                Q(z, z'|x, x') is proportional to R_phi(z|x) R_phi(z'|x') exp t(z, z')

    so that parameters of zero are Q = R (Eq. 14), in any unit of z, and Q is zero where R_phi is. The optimum of a
    table is t = l, the log-ratio: the exact posterior.

    Args:
        family: "gaussian" (L is diagonal), "full gaussian" (L is lower triangular) or "categorical".

    Raises:
        ValueError: An unknown family.
    """

    def __init__(self, family: Family) -> None:
        super().__init__()
        if family not in get_args(Family):
            raise ValueError(f"Expected family as one of {', '.join(get_args(Family))}; got {family!r}.")
        self.family: Family = family

    @abstractmethod
    def _parameters_of(self, observations: Sequence[Tensor], rows: Tensor | None) -> Float[Tensor, "B P"]:
        """One row per pair: m, log diag L, then L below its diagonal row by row; or the table t, row by row."""

    def forward(
        self,
        distributions: Sequence[Distribution],
        observations: Sequence[Tensor],
        *,
        rows: Tensor | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Particles:
        """Latents of Q with their log-weights against R_phi, reparameterised or enumerated.

        Raises:
            DensityError: A recognition model is deterministic.
            ValueError: Latents of another kind than the family, parameters of the wrong shape, latents of Q outside
                the support of R_phi, or num_samples < 1.
        """
        check_count("num_samples", num_samples)
        self._check_absolutely_continuous(distributions)
        parameters = self._parameters_of(observations, rows)
        widths = [d.event_shape[0] for d in distributions]
        expected = (len(observations[0]), parameter_count(self.family, widths))
        if not isinstance(parameters, Tensor) or parameters.shape != expected:
            got = tuple(parameters.shape) if isinstance(parameters, Tensor) else type(parameters).__name__
            raise ValueError(
                f"Expected posterior parameters of shape {expected}, a row for each pair, for a {self.family} over "
                f"latents of widths {widths}; got {got}."
            )
        check_finite("the parameters of the posterior", parameters)
        parameters = at_least_single(parameters)
        if self.family == "categorical":
            return _table(distributions, parameters)
        with full_precision(parameters.device):
            return self._gaussian(distributions, parameters, widths, num_samples, generator)

    def _check_absolutely_continuous(self, distributions: Sequence[Distribution]) -> None:
        if any(isinstance(d, Dirac) for d in distributions):
            raise DensityError(
                "Expected recognition models with a density, as log R_phi(z|x) - log Q is part of the ELBO of a free "
                "posterior (Eq. 12); got a deterministic one (Eq. 38), with respect to which no Q but itself is "
                "absolutely continuous. Use posterior=None (Q = R, Eq. 14), or rp.EpsilonGaussian(net, epsilon=...) "
                "(Eq. 46)."
            )
        discrete = [d.has_enumerate_support for d in distributions]
        if any(each != (self.family == "categorical") for each in discrete):
            other = "categorical" if all(discrete) else "gaussian"
            remedy = f"family='{other}'" if len(set(discrete)) == 1 else "posterior=None, or latents of one kind"
            raise ValueError(
                f"Expected recognition models of the posterior's family, {self.family!r}; got "
                f"{[type(d).__name__ for d in distributions]}, and Q has to be absolutely continuous with respect to "
                f"them (Eq. 12). Use {remedy}."
            )

    def _gaussian(
        self,
        distributions: Sequence[Distribution],
        parameters: Float[Tensor, "B P"],
        widths: Sequence[int],
        num_samples: int,
        generator: torch.Generator | None,
    ) -> Particles:
        total = sum(widths)
        parameters = parameters.to(distributions[0].mean)
        mean = torch.cat([d.mean for d in distributions], -1)
        scale = torch.cat([d.stddev for d in distributions], -1)
        shift, log_diagonal = parameters[:, :total], parameters[:, total : 2 * total]
        noise = torch.randn((num_samples, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
        moved = noise * log_diagonal.exp()
        if self.family == "full gaussian":
            row, column = torch.tril_indices(total, total, offset=-1, device=mean.device)
            below = parameters.new_zeros(len(mean), total, total)
            below[:, row, column] = parameters[:, 2 * total :]
            moved = moved + (below @ noise[..., None])[..., 0]
        latents = (mean + scale * (shift + moved)).split(list(widths), -1)
        log_q = -(0.5 * noise.square() + 0.5 * math.log(2 * math.pi) + log_diagonal + scale.log()).sum(-1)
        log_r = torch.stack([_log_prob(d, z) for d, z in zip(distributions, latents, strict=True)]).sum(0)
        log_weights = torch.full_like(log_q, -math.log(num_samples)).detach()
        return Particles(tuple(latents), log_weights, exact=False, log_correction=log_r - log_q)


class AmortisedPosterior(FreePosterior):
    """Q_psi(z, z'|x, x') whose parameters a network reads from the pair. See also: Eq. 12.

    Args:
        net: Called as net(x, x_prime), it gives the parameters (B, P) of `FreePosterior`, 2 T of them for a
            "gaussian", 2 T + T (T - 1) / 2 for a "full gaussian" (T the latents' widths together) and one per cell
            for a "categorical". Small last weights start it near the recognition model.
        family: What Q is; see `FreePosterior`.

    Raises:
        ValueError: net is not a module, or an unknown family.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> _ = torch.manual_seed(0)
        >>> model = rp.RPM(
        ...     rp.Gaussian(torch.nn.Linear(5, 4)),
        ...     rp.JointGaussianPrior(2),
        ...     posterior=rp.AmortisedPosterior(rp.MLP(10, 8)),
        ... )
        >>> bound = model.elbo(torch.randn(16, 5), torch.randn(16, 5))
        >>> sorted(bound.terms), bound.kind
        (['log_R_minus_log_Q', 'log_prior', 'minus_log_marginals'], 'estimate')
    """

    def __init__(self, net: nn.Module, *, family: Family = "gaussian") -> None:
        super().__init__(family)
        if not isinstance(net, nn.Module):
            raise ValueError(f"Expected net as a torch module of x and x_prime, such as rp.MLP(8, 4); got {net!r}.")
        self.net = net

    def _parameters_of(self, observations: Sequence[Tensor], rows: Tensor | None) -> Float[Tensor, "B P"]:
        try:
            return self.net(*observations)
        except RuntimeError as error:
            explain_dtype(error, "x", observations[0], self.net)
            raise


class PairPosterior(FreePosterior):
    """Q(z, z'|x, x') with parameters of its own for each of N pairs, to be optimised for them. See also: Eq. 12.

    It starts at the recognition model. `rows=` of the model's methods says which pairs are scored; without it all N
    are, in order.

    Args:
        num_pairs: Number N of pairs.
        widths: Widths of the latents, one per observation.
        family: What Q is; see `FreePosterior`.

    Raises:
        ValueError: A count or width below one, fewer than two widths, or an unknown family.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> _ = torch.manual_seed(0)
        >>> x, x_prime = torch.randn(2, 16, 5)
        >>> model = rp.RPM(
        ...     rp.Categorical(torch.nn.Linear(5, 3)),
        ...     rp.JointCategoricalPrior(3, 3),
        ...     posterior=rp.PairPosterior(16, [3, 3], family="categorical"),
        ...     marginal=rp.DatasetMarginal(x, x_prime),
        ... )
        >>> optimiser = torch.optim.LBFGS(model.posterior.parameters(), max_iter=100)
        >>> def loss():
        ...     optimiser.zero_grad()
        ...     value = -model.elbo(x, x_prime).value
        ...     value.backward()
        ...     return value
        >>> _ = optimiser.step(loss)
        >>> evidence = model.log_marginal(x, x_prime)
        >>> abs(float(model.elbo(x, x_prime)) - float(evidence)) < 1e-5
        True
    """

    takes_rows: ClassVar[bool] = True

    def __init__(self, num_pairs: int, widths: Sequence[int], *, family: Family = "gaussian") -> None:
        super().__init__(family)
        check_count("num_pairs", num_pairs)
        if not isinstance(widths, Sequence) or len(widths) < 2:
            raise ValueError(f"Expected widths as a sequence of at least two whole numbers; got {widths!r}.")
        for j, width in enumerate(widths):
            check_count(f"widths[{j}]", width)
        self.offsets = nn.Parameter(torch.zeros(num_pairs, parameter_count(family, widths)))

    def _parameters_of(self, observations: Sequence[Tensor], rows: Tensor | None) -> Float[Tensor, "B P"]:
        size, pairs = len(observations[0]), len(self.offsets)
        if rows is None:
            if size != pairs:
                raise ValueError(
                    f"Expected rows= with the index of each pair among the {pairs} of the PairPosterior, or all of "
                    f"them in order; got none for {size} pairs. New pairs need a PairPosterior of their own."
                )
            return self.offsets
        check_tensor("rows", rows)
        inside = is_whole(rows) and rows.shape == (size,) and 0 <= int(rows.min()) and int(rows.max()) < pairs
        if not inside:
            raise ValueError(
                f"Expected rows as {size} indices from 0 to {pairs - 1}, one per scored pair; got {rows.dtype} of "
                f"shape {tuple(rows.shape)}."
            )
        return self.offsets[rows.to(self.offsets.device, torch.long)]


def parameter_count(family: Family, widths: Sequence[int]) -> int:
    """How many numbers make a free Q of a family over latents of these widths."""
    if family == "categorical":
        return math.prod(widths)
    total = sum(widths)
    return 2 * total + (total * (total - 1) // 2 if family == "full gaussian" else 0)


def _table(distributions: Sequence[Distribution], parameters: Float[Tensor, "B P"]) -> Particles:
    """Every cell of the table, so that the expectation is a sum."""
    own = recognise(distributions)
    log_q = (own.log_weights + parameters.T).log_softmax(0)
    # zero on both sides is no difference
    correction = torch.where(own.log_weights.isneginf(), 0.0, own.log_weights - log_q)
    return Particles(own.latents, log_q, exact=True, log_correction=correction)


def _log_prob(distribution: Distribution, z: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
    try:
        return distribution.log_prob(z)
    except ValueError as error:
        raise ValueError(
            f"Expected latents of Q within the support of the recognition model's {type(distribution).__name__}, with "
            f"respect to which Q has to be absolutely continuous (Eq. 12); got others. Use posterior=None, or "
            f"a posterior of your own with that support."
        ) from error
