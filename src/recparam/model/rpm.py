"""The recognition-parameterised model: recognition, prior and marginal in one object that users call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from recparam import bounds
from recparam.bounds import Bound, Decomposition, MutualInformation
from recparam.bounds.directions import side_below_mi, unless_whole
from recparam.couplings import Coupling
from recparam.marginals import BatchMarginal, normalised_weights
from recparam.model import generation
from recparam.model.assembly import Assembly, Expectation, RowOptions
from recparam.model.generation import Generated
from recparam.model.matching import Matching, matching_from
from recparam.model.prediction import GridBase, Prediction, grid_probabilities, prediction_from
from recparam.priors import InfoNCEPrior, Side
from recparam.recognition import DensityError, Dirac
from recparam.recognition.posteriors import RecognitionPosterior
from recparam.utils.checks import check_count, check_finite, check_tensor


class RPM(Assembly):
    """A latent-variable model with an encoder and a prior but no decoder.

    Its likelihood is the recognition model turned round by Bayes' rule, P(x|z) = R(x|z), so that every
    objective is an expectation of the log-ratio l = log P_theta(z, z') - log R(z) - log R(z').

    Args:
        recognition: R_phi(z|x), shared by all observations, or a sequence with one per observation.
        prior: P_theta(z, z').
        posterior: Q, such as rp.AmortisedPosterior(net); None means the recognition model itself (Eq. 14).
        marginal: Where R(z) and R(z') come from; None means the batch.

    Raises:
        ValueError: An argument of the wrong type, or no recognition model.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> model = rp.RPM(rp.Deterministic(torch.nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)))
        >>> x = torch.tensor([[0.0], [10.0]])
        >>> model.elbo(x, x)
        ELBO - const ~ 0.693 nats (estimate, ceiling 0.693)
    """

    def elbo(
        self,
        *observations: Tensor,
        side: Side = None,
        expectation: Expectation = "sampled",
        **options: Unpack[RowOptions],
    ) -> Bound:
        """The ELBO less its constant, in nats. See also: Eqs. 12, 15, 16 (`recparam.bounds.elbo`).

        Args:
            observations: x, x', ...: one tensor (B, ...) per observation, rows in correspondence.
            side: None keeps a row's own latents in the bank (the training objective); "upper" and "lower" ask
                for a bound on the ELBO, and the bank is treated as that bound needs.
            expectation: "sampled" draws z and z'. "analytic", for Gaussian latents under an InfoNCE prior with
                `GaussianRBF`, `Bilinear`, `OnDimensions` of them or their sum, draws z alone: E[log f(z, z')] over
                z', and E[f(z, z')] over the z' of each row of the bank, are closed forms. That averages inside
                the logarithm, which lowers the value of a finite bank, but for side="lower" where it may raise it,
                and turns no direction round; over a data set under the empirical base the value is exact.
            weights: Weight of each row in averages, shape (B,), fixed before the rows are seen; None means equal.
            rows: With a DatasetMarginal, the data set's index of each scored row, shape (B,); with a PairPosterior,
                the index of its pair.
            labels: Who the scored rows are: identities, sessions, times (see `Labels`).
            num_samples: Draws of z per row where z is not enumerable.
            generator: Source of those draws.

        Returns:
            A `Bound` whose `of`, `kind` and `ceiling` say what the number is.

        Raises:
            DensityError: The prior or a free posterior needs densities, and a recognition model is deterministic.
            ValueError: No closed form where one is asked for; a free posterior that is not absolutely continuous with
                respect to the recognition models and the prior; shapes, widths or dtypes that do not fit, a batch of
                one, NaN or infinity (named), `rows` that are not the scored observations.

        With side="lower" and an InfoNCE prior the bound, valid as it is, can be -inf and so say nothing, where a row
        has few latents of the bank near it. A UserWarning tells; a larger bank or a longer lengthscale helps.
        In evaluation mode or without gradients a value at its ceiling comes with a `CeilingWarning`.
        """
        recognised = self._recognised(observations, options, free=True, expectation=expectation)
        return self._warned(bounds.elbo(self.prior, recognised, side=side), recognised)

    def forward(self, *observations: Tensor, **options: Any) -> Bound:
        """The same as `elbo`, for wrappers that call the module itself, such as DistributedDataParallel."""
        return self.elbo(*observations, **options)

    def log_marginal(self, *observations: Tensor, side: Side = None, **options: Unpack[RowOptions]) -> Bound:
        """log P(x, x') less its constant, in nats. See also: Eqs. 50, 51 (`recparam.bounds.log_marginal`).

        Arguments as in `elbo`. Latents that cannot be enumerated are K = `num_samples` draws from the posterior, which
        importance weights correct: a lower bound that rises with K where the marginals are exact (a DatasetMarginal
        that holds the scored rows, and a prior other than InfoNCE), and an estimate on either side elsewhere.
        """
        recognised = self._recognised(observations, options, free=True)
        return self._warned(bounds.log_marginal(self.prior, recognised, side=side), recognised)

    def posterior_gap(self, *observations: Tensor, side: Side = None, **options: Unpack[RowOptions]) -> Bound:
        """ELBO of the free posterior less that with Q = R, in nats: what is gained over Eq. 15. Arguments as in `elbo`.

        Raises:
            ValueError: The model has no free posterior, or as `elbo`.
        """
        if isinstance(self.posterior, RecognitionPosterior):
            raise ValueError(
                "Expected a model with a free posterior; got Q = R (Eq. 14), which has no gap to itself. "
                "Use rp.RPM(..., posterior=rp.AmortisedPosterior(net)) or rp.PairPosterior."
            )
        free = self._recognised(observations, options, free=True)
        recognition = replace(free, particles=free.recognition or free.particles)
        return bounds.posterior_gap(*(bounds.elbo(self.prior, each, side=side) for each in (free, recognition)))

    def log_prob(
        self,
        *observations: Tensor,
        side: Side = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """log P(x, x') itself, in nats: a log-density over observations. See also: Eqs. 13, 31.

        Needs an `EstimatedMarginal` whose bases have densities; its docstring says which way the value errs.
        Arguments as in `elbo`.

        Raises:
            ValueError: Another marginal, a base that only samples, or as in `elbo`.
        """
        self._check(observations)
        log_base = self.marginal.log_base(observations)
        bound = self.log_marginal(*observations, side=side, num_samples=num_samples, generator=generator)
        return generation.log_prob(bound, log_base)

    @torch.no_grad()
    def sample(
        self,
        num: int = 1,
        *,
        num_candidates: int = 10_000,
        num_samples: int = 1,
        chunk: int = 4096,
        generator: torch.Generator | None = None,
    ) -> Generated:
        """Draws of P(x, x') by sampling-importance-resampling from the bases of an `EstimatedMarginal`.

        Args:
            num: Draws.
            num_candidates: Independent draws of the bases, which F(x, x') weighs (see also: Eq. 32).
            num_samples: Draws of z per candidate where z is not enumerable.
            chunk: Candidates encoded together.
            generator: Source of randomness.

        Returns:
            The observations drawn, and the effective sample size of the candidates.

        Raises:
            ValueError: Another marginal, a count below one, or an effective sample size of zero.
        """
        device = next((p.device for p in self.parameters()), None)
        drawn: RowOptions = {"num_samples": num_samples, "generator": generator}

        def log_weight(*candidates: Tensor) -> Tensor:
            candidates = tuple(x.to(device) for x in candidates)
            free = not self.posterior.takes_rows  # candidates are no pairs that have parameters of their own
            recognised = self._recognised(candidates, drawn, free=free)
            return bounds.log_marginal(self.prior, recognised).per_observation

        draw = self.marginal.sample_bases
        counts = {"num": num, "num_candidates": num_candidates, "chunk": chunk}
        return generation.resampled(draw, log_weight, generator=generator, **counts)

    def mutual_information(self, *observations: Tensor, **options: Unpack[RowOptions]) -> MutualInformation:
        """Bounds on the mutual information of the latents, in nats. See also: Eqs. 5, 20.

        With densities (Gaussian, categorical) both sides follow from R itself, whatever the prior. With a
        deterministic recognition model and an InfoNCE prior the lower bound is InfoNCE, the estimate leaves
        the row's own latent out of the bank, and there is no upper bound. The lower side of such a prior's ELBO,
        `elbo(..., side="lower")`, is below the MI as well, without a ceiling and with a bank of other data too.

        Raises:
            DensityError: A deterministic recognition model without an InfoNCE prior.
        """
        recognised = self._recognised(observations, options, in_bank=True)
        found = bounds.mutual_information_bounds(self.prior, recognised)
        self._warned(found.lower, recognised)
        if found.estimate is not found.lower:
            self._warned(found.estimate, recognised)
        return found

    def decompose(
        self,
        *observations: Tensor,
        critic: Coupling | InfoNCEPrior | None = None,
        **options: Unpack[RowOptions],
    ) -> Decomposition:
        """The ELBO as MI - KL. See also: Eqs. 17, 18.

        With densities (Gaussian, categorical): exact over a data set under the empirical base; from a batch, an
        upper bound on the ELBO, a lower one on the MI, and so a lower one on the KL. Deterministic latents have no
        density ratio; a critic's InfoNCE bound on the same latents takes the place of the MI, and its shortfall and
        its ceiling are then missing from the KL too.

        Args:
            observations: x, x', ...: one tensor (B, ...) per observation, rows in correspondence.
            critic: log f of a lower bound on the MI, fitted beforehand on other data than the scored rows, or a
                prior that holds it. The more flexible, the nearer the KL; the prior's own coupling proves no more
                than KL >= 0. None: the density ratio of R itself.
            weights: As in `elbo`.
            rows: As in `elbo`.
            labels: As in `elbo`.
            num_samples: As in `elbo`.
            generator: As in `elbo`.

        Returns:
            The three, each with its kind; with a critic the KL is at best a lower bound.

        Raises:
            DensityError: A recognition model is deterministic, and no critic is given.
            ValueError: A critic that is none, waits for data, or does not fit the latents.
        """
        coupling = critic.coupling if isinstance(critic, InfoNCEPrior) else critic
        if coupling is not None:
            if not isinstance(coupling, Coupling):
                raise ValueError(
                    f"Expected critic as a recparam Coupling or InfoNCEPrior, such as rp.GaussianRBF() fitted on "
                    f"other data; got {coupling!r}."
                )
            coupling.check_initialised()
        recognised = self._recognised(observations, options, in_bank=True)
        if coupling is None and any(isinstance(d, Dirac) for d in recognised.joint.distributions):
            raise DensityError(
                "The MI and the KL of deterministic latents (Eq. 38) have no density ratio to evaluate. Give a critic "
                "fitted on other data, critic=rp.GaussianRBF(...), whose InfoNCE bound on the MI leaves a lower bound "
                "on the KL; or use rp.EpsilonGaussian(net, epsilon=...) (Eq. 46; see docs/deterministic.md)."
            )
        elbo = bounds.elbo(self.prior, recognised, side=unless_whole("upper", recognised))
        if critic is None:
            mi = bounds.mutual_information(recognised, side=unless_whole("lower", recognised))
        else:
            mi = bounds.infinite_infonce(critic, recognised, side=side_below_mi(recognised))
        return bounds.decompose(elbo, self._warned(mi, recognised))

    def infonce(
        self,
        *observations: Tensor,
        constant: float | Literal["tight", "paper"] = "tight",
        across_processes: bool = True,
    ) -> Bound:
        """The finite-sample InfoNCE bound on the MI of a pair, negatives from the batch. See also: Eq. 6.

        The batch is that of all processes, as in `elbo`. It is this process's with `across_processes=False`, or where
        the model's `BatchMarginal` says so.

        Raises:
            ValueError: The prior is not an InfoNCE prior, the latents are stochastic, or there are not two
                observations.
        """
        if not isinstance(self.prior, InfoNCEPrior) or len(observations) != 2:
            raise ValueError(
                f"Expected an InfoNCE prior and two observations; got {type(self.prior).__name__} and "
                f"{len(observations)}."
            )
        self._check(observations)
        across = across_processes and getattr(self.marginal, "across_processes", True)
        BatchMarginal(across_processes=across).check(observations, None)
        distributions = self._encode(*observations)
        if not all(isinstance(d, Dirac) for d in distributions):
            raise ValueError(
                "Expected deterministic recognition models; got stochastic ones. "
                "Draw latents and use recparam.infonce(coupling, z, z_prime)."
            )
        z, z_prime = (d.mean for d in distributions)
        doubt = self._doubt(observations, distributions)
        bound = bounds.infonce(self.prior.coupling, z, z_prime, constant=constant, across_processes=across)
        bound = bound.doubted(doubt)
        if isinstance(constant, str) and not self._learning:
            bounds.warn_at_ceiling(bound, rows=len(z), stacklevel=2)
        return bound

    @torch.no_grad()
    def predict(
        self,
        z: Float[Tensor, "A D"],
        grid: Float[Tensor, "G E"],
        *,
        base: GridBase = "uniform",
    ) -> Float[Tensor, "A G"]:
        """P(z'|z) on a grid of equal cells, as probabilities that sum to one over the grid.

        Equation: 26

            P(z'|z) = R(z') f(z, z') / Z(z)

        Args:
            z: Latents to predict from, shape (A, D).
            grid: Grid points z', shape (G, D').
            base: log R(z') on the grid, shape (G,), or a callable that returns it; "uniform" takes R(z') to be
                constant, as the paper does to build intuition. A prior with a density of its own ignores it.

        Returns:
            Shape (A, G).

        Raises:
            ValueError: Shapes or widths do not fit, or the prior has no conditional to draw.
        """
        return grid_probabilities(self.prior, z, grid, base=base)

    @torch.no_grad()
    def predictive(
        self,
        x: Tensor,
        x_prime: Tensor,
        *,
        index: int = 0,
        weights: Float[Tensor, " N"] | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """P(z'|z) and P(x'|x) for the latents of x, over the latents of a data set of x'. See also: Eq. 26.

        Latents that are not a point are drawn: one z for each x, from which alone the prediction starts, and
        `num_samples` candidates for each x', unless those can be enumerated.

        Args:
            x: Observations to predict from, shape (A, ...).
            x_prime: Observations of the next kind, shape (N, ...), the empirical marginal of x'.
            index: Which observation x is, from zero; x' is the one after it.
            weights: Weight of each row of x', shape (N,); None means equal.
            num_samples: Draws of z' for each x' where z' is not enumerable.
            generator: Source of draws.

        Returns:
            A `Prediction`, of the model as it is now.

        Raises:
            ValueError: Not an InfoNCE prior, a coupling that waits for data, no observation after `index`, or bad x,
                x_prime, weights or num_samples.
        """
        if not isinstance(self.prior, InfoNCEPrior):
            raise ValueError(
                f"Expected an InfoNCE prior, whose P(z'|z) is R(z') f(z, z') / Z(z) over the data's latents; got "
                f"{type(self.prior).__name__}. Use rp.InfoNCEPrior(...), or model.predict for a density on a grid."
            )
        coupling = self.prior.coupling
        coupling.check_initialised()
        check_count("num_samples", num_samples)
        check_count("index", index, least=0)
        models = self._models
        if not self.shared and index + 2 > len(models):
            raise ValueError(
                f"Expected index from 0 to {len(models) - 2}, an observation that another follows; got {index}."
            )
        for name, value in (("x", x), ("x_prime", x_prime)):
            check_tensor(name, value)
            if not value.ndim or not len(value):
                raise ValueError(f"Expected {name} with at least one row; got shape {tuple(value.shape)}.")
            check_finite(name, value)
        given = None if weights is None else normalised_weights(weights, len(x_prime))
        now, after = (models[0 if self.shared else at](value) for at, value in ((index, x), (index + 1, x_prime)))
        return prediction_from(coupling, now, after, weights=given, num_samples=num_samples, generator=generator)

    @torch.no_grad()
    def match(self, x: Tensor, x_prime: Tensor, **options: Unpack[RowOptions]) -> Matching:
        """How probably the model pairs each row of x with each row of x'. See also: Eqs. 30-34.

        Args:
            x: Observations, shape (B, ...).
            x_prime: What they were observed with, shape (B, ...): row i is the partner of row i.
            weights: As in `elbo`.
            rows: As in `elbo`.
            labels: As in `elbo`.
            num_samples: Draws of each latent where latents are not enumerable.
            generator: Source of draws.

        Returns:
            A `Matching`, of the model as it is now; its `kind` says whether the probabilities are exact.

        Raises:
            DensityError: The prior needs densities and a recognition model is deterministic.
            ValueError: As in `elbo`; a prior without a pairwise form, or too many pairs for the optimal prior.
        """
        scored = self._scored((x, x_prime), options)
        return matching_from(self.prior, scored, self._with_bank(scored))
