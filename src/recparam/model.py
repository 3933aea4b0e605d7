"""The recognition-parameterised model: recognition, prior and marginal in one object that users call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from recparam import bounds, generation
from recparam.banks import Labels
from recparam.bounds import Bound, Decomposition, MutualInformation
from recparam.couplings import Coupling
from recparam.generation import Generated
from recparam.marginals import BatchMarginal, Marginal, Recognised, Scored, normalised_weights
from recparam.matching import Matching, matching_from
from recparam.ops.checks import check_count, check_finite, check_matrix, check_tensor, observation_name
from recparam.posteriors import Posterior, RecognitionPosterior
from recparam.prediction import Prediction, prediction_from
from recparam.priors import InfoNCEPrior, Prior, Side
from recparam.recognition import DensityError, Dirac, RecognitionModel

Expectation = Literal["sampled", "analytic"]


class RPM(nn.Module):
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

    def __init__(
        self,
        recognition: RecognitionModel | Sequence[RecognitionModel],
        prior: Prior,
        *,
        posterior: Posterior | None = None,
        marginal: Marginal | None = None,
    ) -> None:
        super().__init__()
        several = list(recognition) if isinstance(recognition, Sequence) else []
        models = [recognition] if isinstance(recognition, RecognitionModel) else several
        if not models or not all(isinstance(m, RecognitionModel) for m in models):
            raise ValueError(
                f"Expected recognition as a recognition model such as rp.Deterministic(net), or one per observation; "
                f"got {recognition!r}."
            )
        if not isinstance(prior, Prior):
            raise ValueError(f"Expected prior as a recparam prior, such as rp.InfoNCEPrior(...); got {prior!r}.")
        if marginal is not None and not isinstance(marginal, Marginal):
            raise ValueError(f"Expected marginal as a recparam marginal, such as rp.BatchMarginal(); got {marginal!r}.")
        if posterior is not None and not isinstance(posterior, Posterior):
            raise ValueError(
                f"Expected posterior as a recparam posterior, such as rp.AmortisedPosterior(net), or None; "
                f"got {posterior!r}."
            )
        self.shared = isinstance(recognition, RecognitionModel)
        self.recognition = nn.ModuleList(models)
        self.prior = prior
        self.posterior: Posterior = RecognitionPosterior() if posterior is None else posterior
        self.marginal: Marginal = BatchMarginal() if marginal is None else marginal

    def encode(self, x: Tensor, *, index: int = 0) -> Distribution:
        """R_phi(z|x) for a batch.

        Args:
            x: Observations, batch first.
            index: Which observation's recognition model, from zero; of no effect where they share one.

        Returns:
            Distribution with batch shape (B,) and event shape (D,); `.mean` are the latents of a Dirac.

        Raises:
            NonFiniteError: x holds NaN or infinity.
            ValueError: x is not a tensor, index names no recognition model, or the network's output has the wrong
                shape.
        """
        check_count("index", index, least=0)
        models = self._models
        if not self.shared and index >= len(models):
            raise ValueError(f"Expected index from 0 to {len(models) - 1}, one recognition model each; got {index}.")
        check_tensor("x", x)
        check_finite("x", x)
        return models[0 if self.shared else index](x)

    @torch.no_grad()
    def initialise(self, *observations: Tensor) -> None:
        """Set data-driven starting values (median heuristic) from a batch, once; training calls this.

        Args:
            observations: One tensor (B, ...) per observation, B >= 2.
        """
        self._check(observations)
        # The latents that training will see, batch norm in its present mode, but its running statistics untouched.
        buffers = [(buffer, buffer.clone()) for buffer in self.recognition.buffers()]
        means = [d.mean for d in self._encode(*observations)]
        for buffer, before in buffers:
            buffer.copy_(before)
        self.prior.initialise(*means)

    def elbo(
        self,
        *observations: Tensor,
        side: Side = None,
        expectation: Expectation = "sampled",
        weights: Float[Tensor, " B"] | None = None,
        rows: Int[Tensor, " B"] | None = None,
        labels: Labels | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
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
            weights: Weight of each row in averages, shape (B,); None means equal.
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
        recognised = self._recognised(
            observations, weights, rows, labels, num_samples, generator, free=True, expectation=expectation
        )
        return self._looked_at(bounds.elbo(self.prior, recognised, side=side), recognised)

    def forward(self, *observations: Tensor, **options: Any) -> Bound:
        """The same as `elbo`, for wrappers that call the module itself, such as DistributedDataParallel."""
        return self.elbo(*observations, **options)

    def log_marginal(
        self,
        *observations: Tensor,
        side: Side = None,
        weights: Float[Tensor, " B"] | None = None,
        rows: Int[Tensor, " B"] | None = None,
        labels: Labels | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """log P(x, x') less its constant, in nats. See also: Eqs. 50, 51 (`recparam.bounds.log_marginal`).

        Arguments as in `elbo`. Latents that cannot be enumerated are K = `num_samples` draws from the posterior, which
        importance weights correct: a lower bound that rises with K where the marginals are exact (a DatasetMarginal
        that holds the scored rows, and a prior other than InfoNCE), and an estimate on either side elsewhere.
        """
        recognised = self._recognised(observations, weights, rows, labels, num_samples, generator, free=True)
        return self._looked_at(bounds.log_marginal(self.prior, recognised, side=side), recognised)

    def posterior_gap(
        self,
        *observations: Tensor,
        side: Side = None,
        weights: Float[Tensor, " B"] | None = None,
        rows: Int[Tensor, " B"] | None = None,
        labels: Labels | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """ELBO of the free posterior less that with Q = R, in nats: what is gained over Eq. 15. Arguments as in `elbo`.

        Raises:
            ValueError: The model has no free posterior, or as `elbo`.
        """
        if isinstance(self.posterior, RecognitionPosterior):
            raise ValueError(
                "Expected a model with a free posterior; got Q = R (Eq. 14), which has no gap to itself. "
                "Use rp.RPM(..., posterior=rp.AmortisedPosterior(net)) or rp.PairPosterior."
            )
        free = self._recognised(observations, weights, rows, labels, num_samples, generator, free=True)
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

        def log_weight(*candidates: Tensor) -> Tensor:
            candidates = tuple(x.to(device) for x in candidates)
            return self.log_marginal(*candidates, num_samples=num_samples, generator=generator).per_observation

        draw = self.marginal.sample_bases
        counts = {"num": num, "num_candidates": num_candidates, "chunk": chunk}
        return generation.resampled(draw, log_weight, generator=generator, **counts)

    def mutual_information(
        self,
        *observations: Tensor,
        weights: Float[Tensor, " B"] | None = None,
        rows: Int[Tensor, " B"] | None = None,
        labels: Labels | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> MutualInformation:
        """Bounds on the mutual information of the latents, in nats. See also: Eqs. 5, 20.

        With densities (Gaussian, categorical) both sides follow from R itself, whatever the prior. With a
        deterministic recognition model and an InfoNCE prior the lower bound is InfoNCE, the estimate leaves
        the row's own latent out of the bank, and there is no upper bound. The lower side of such a prior's ELBO,
        `elbo(..., side="lower")`, is below the MI as well, without a ceiling and with a bank of other data too.

        Raises:
            DensityError: A deterministic recognition model without an InfoNCE prior.
        """
        recognised = self._recognised(observations, weights, rows, labels, num_samples, generator, in_bank=True)
        if not any(isinstance(d, Dirac) for d in recognised.joint.distributions):
            sides: tuple[Side, Side, Side] = ("lower", None, "upper")
            lower, estimate, upper = (bounds.mutual_information(recognised, side=side) for side in sides)
            self._looked_at(estimate, recognised)
            return MutualInformation(lower, estimate, upper)
        if not isinstance(self.prior, InfoNCEPrior):
            raise DensityError(
                f"The mutual information of deterministic latents (Eq. 38) has no density ratio to evaluate; "
                f"{type(self.prior).__name__} cannot bound it. Use rp.InfoNCEPrior(...) for a lower bound, or "
                f"rp.EpsilonGaussian(net, epsilon=...) (Eq. 46; see docs/deterministic.md)."
            )
        lower = self._looked_at(bounds.infinite_infonce(self.prior.coupling, recognised), recognised)
        if recognised.joint.situation == "exact":
            return MutualInformation(lower, lower, None)
        left_out = bounds.elbo(self.prior, recognised, side="upper")
        estimate = replace(left_out, of="mi", kind="estimate", ceiling=None)
        return MutualInformation(lower, estimate, None)

    def decompose(
        self,
        *observations: Tensor,
        critic: Coupling | InfoNCEPrior | None = None,
        weights: Float[Tensor, " B"] | None = None,
        rows: Int[Tensor, " B"] | None = None,
        labels: Labels | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
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
        recognised = self._recognised(observations, weights, rows, labels, num_samples, generator, in_bank=True)
        if coupling is None and any(isinstance(d, Dirac) for d in recognised.joint.distributions):
            raise DensityError(
                "The MI and the KL of deterministic latents (Eq. 38) have no density ratio to evaluate. Give a critic "
                "fitted on other data, critic=rp.GaussianRBF(...), whose InfoNCE bound on the MI leaves a lower bound "
                "on the KL; or use rp.EpsilonGaussian(net, epsilon=...) (Eq. 46; see docs/deterministic.md)."
            )
        situation = recognised.joint.situation
        exact = situation in ("exact", "exact_sampled")
        elbo = bounds.elbo(self.prior, recognised, side=None if exact else "upper")
        if coupling is None:
            mi = bounds.mutual_information(recognised, side=None if exact else "lower")
        else:
            # drawn latents of a whole data set: only the lower side of -log Z errs downwards
            side = "lower" if situation == "exact_sampled" else None
            mi = bounds.infinite_infonce(coupling, recognised, side=side)
        return bounds.decompose(elbo, self._looked_at(mi, recognised))

    def infonce(self, *observations: Tensor, constant: float | Literal["tight", "paper"] = "tight") -> Bound:
        """The finite-sample InfoNCE bound on the MI of a pair, negatives from the batch. See also: Eq. 6.

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
        BatchMarginal().check(observations, None)
        distributions = self._encode(*observations)
        if not all(isinstance(d, Dirac) for d in distributions):
            raise ValueError(
                "Expected deterministic recognition models; got stochastic ones. "
                "Draw latents and use recparam.infonce(coupling, z, z_prime)."
            )
        z, z_prime = (d.mean for d in distributions)
        self.prior.initialise(z.detach(), z_prime.detach())
        bound = bounds.infonce(self.prior.coupling, z, z_prime, constant=constant)
        if isinstance(constant, str) and not self._learning:
            bounds.warn_at_ceiling(bound, rows=len(z), stacklevel=2)
        return bound

    @torch.no_grad()
    def predict(
        self,
        z: Float[Tensor, "A D"],
        grid: Float[Tensor, "G E"],
        *,
        base: Literal["uniform"] | Float[Tensor, " G"] | Callable[[Tensor], Tensor] = "uniform",
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
        check_matrix("z", z)
        check_matrix("grid", grid)
        check_finite("z", z)
        check_finite("grid", grid)
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
        logits_AG = self.prior.log_conditional(z, grid, log_base_G)
        lost_A = ~logits_AG.amax(-1).isfinite()
        if bool(lost_A.any()):
            raise ValueError(
                f"Expected z within reach of the grid; got row {int(lost_A.nonzero()[0])}, whose log-density overflows "
                f"at every grid point of positive base. Move the grid, or rescale z."
            )
        return logits_AG.softmax(-1)

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
    def match(
        self,
        x: Tensor,
        x_prime: Tensor,
        *,
        weights: Float[Tensor, " B"] | None = None,
        rows: Int[Tensor, " B"] | None = None,
        labels: Labels | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Matching:
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
        scored = self._scored((x, x_prime), weights, rows, labels, num_samples, generator)
        return matching_from(self.prior, scored, self.marginal.recognised(scored, encode=self._encode))

    def _recognised(
        self,
        observations: Sequence[Tensor],
        weights: Tensor | None,
        rows: Tensor | None,
        labels: Labels | None,
        num_samples: int,
        generator: torch.Generator | None,
        *,
        in_bank: bool = False,
        free: bool = False,
        expectation: Expectation = "sampled",
    ) -> Recognised:
        """Encode and sample the scored rows, and put them beside their bank.

        A bank without the scored rows bounds neither side of the MI. `in_bank` asks for one that holds them, which
        is then the scored batch itself. `free` asks for latents of a free posterior, where the model has one; those
        of the bank, and whatever is said of R alone, are R's.
        """
        if expectation not in ("sampled", "analytic"):
            raise ValueError(f"Expected expectation='sampled' or 'analytic'; got {expectation!r}. Use 'sampled'.")
        scored = self._scored(observations, weights, rows, labels, num_samples, generator)
        # Of points every expectation is the value itself, which the kernel takes in one sweep with its denominator.
        integrate = expectation == "analytic" and not all(isinstance(d, Dirac) for d in scored.distributions)
        if integrate:
            self.prior.check_closed_form(scored.distributions)
        of_q = None
        if free and not isinstance(self.posterior, RecognitionPosterior):
            if integrate:
                raise ValueError(
                    "Expected expectation='sampled' with a free posterior, since the closed forms are those of R_phi; "
                    "got 'analytic'. Use 'sampled', or posterior=None."
                )
            encoded = scored.distributions
            of_q = self.posterior(encoded, observations, rows=rows, num_samples=num_samples, generator=generator)
        recognised = self.marginal.recognised(scored, encode=self._encode)
        if self._learning:
            self.marginal.remember(scored)
        if integrate:
            return recognised.in_closed_form(scored.distributions)
        if in_bank and recognised.joint.situation in ("independent", "queue"):
            window = recognised.joint.bank.exclude_within
            return BatchMarginal(exclude_within=window).recognised(replace(scored, rows=None), encode=self._encode)
        if of_q is not None:
            return replace(recognised, particles=of_q, recognition=recognised.particles)
        return recognised

    def _scored(
        self,
        observations: Sequence[Tensor],
        weights: Tensor | None,
        rows: Tensor | None,
        labels: Labels | None,
        num_samples: int,
        generator: torch.Generator | None,
    ) -> Scored:
        """Check, encode and sample the rows to be scored."""
        self._check(observations)
        check_count("num_samples", num_samples)
        size = observations[0].shape[0]
        given = None if weights is None else normalised_weights(weights, size)
        if self.posterior.takes_rows and isinstance(self.marginal, BatchMarginal):
            bank_rows = None  # the posterior's alone: this bank has no rows of its own
        else:
            bank_rows = rows
        self.marginal.check(observations, bank_rows)
        if labels is not None and (not isinstance(labels, Labels) or len(labels) != size):
            got = f"labels of {len(labels)}" if isinstance(labels, Labels) else repr(labels)
            raise ValueError(f"Expected labels as rp.Labels of the {size} scored rows; got {got}.")
        distributions = self._encode(*observations)
        self.prior.check_densities(distributions)
        self.prior.initialise(*(d.mean.detach() for d in distributions))
        own = self.posterior if isinstance(self.posterior, RecognitionPosterior) else RecognitionPosterior()
        particles = own(distributions, observations, num_samples=num_samples, generator=generator)
        reference = particles.log_weights
        row_weights = reference.new_full((size,), 1 / size) if given is None else given.to(reference)
        return Scored(observations, distributions, particles, row_weights, bank_rows, labels, generator, self._models)

    def _looked_at(self, bound: Bound, recognised: Recognised) -> Bound:
        """The bound; a warning if it sits at its ceiling, unless it is the objective of a training step."""
        bank = recognised.joint.bank
        if not self._learning:
            steps = len(recognised.particles.latents) - 1
            bounds.warn_at_ceiling(bound, rows=bank.size, source=bank.source, steps=steps, stacklevel=3)
        return bound

    @property
    def _learning(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _encode(self, *observations: Tensor) -> list[Distribution]:
        models = self._models
        if self.shared:
            return models[0].encode_many(*observations)
        return [model(x) for model, x in zip(models, observations, strict=True)]

    @property
    def _models(self) -> list[RecognitionModel]:
        return [model for model in self.recognition if isinstance(model, RecognitionModel)]

    def _check(self, observations: Sequence[Tensor]) -> None:
        if len(observations) < 2:
            raise ValueError(f"Expected at least two observations (x, x_prime); got {len(observations)}.")
        for j, x in enumerate(observations):
            check_tensor(observation_name(j), x)
        if not self.shared and len(observations) != len(self.recognition):
            raise ValueError(
                f"Expected {len(self.recognition)} observations, one per recognition model; got {len(observations)}."
            )
        sizes = [x.shape[0] if x.ndim else 0 for x in observations]
        if len(set(sizes)) > 1 or sizes[0] < 1:
            raise ValueError(f"Expected observations with the same number of rows, at least one; got {sizes}.")
        for j, x in enumerate(observations):
            check_finite(observation_name(j), x)
