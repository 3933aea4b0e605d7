"""The parts of a model, checked, and how rows to be scored are put before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from recparam.bounds import Bound, warn_at_ceiling
from recparam.bounds.doubts import FITTED, doubt_of_encoder, doubt_of_mode
from recparam.data.labels import Labels
from recparam.marginals import BatchMarginal, DatasetMarginal, Marginal, Recognised, Scored, normalised_weights
from recparam.marginals.joint import Situation
from recparam.ops.logits import HALF
from recparam.priors import Prior
from recparam.recognition import Dirac, RecognitionModel
from recparam.recognition.posteriors import Posterior, RecognitionPosterior
from recparam.utils.checks import check_count, check_finite, check_tensor, observation_name

Expectation = Literal["sampled", "analytic"]


class RowOptions(TypedDict, total=False):
    """What is known of the rows to be scored, and how their latents are drawn; see `RPM.elbo`."""

    weights: Float[Tensor, " B"] | None
    rows: Int[Tensor, " B"] | None
    labels: Labels | None
    num_samples: int
    generator: torch.Generator | None


class Assembly(nn.Module):
    """Recognition models, a prior, a posterior and a marginal; what is asked of them is `recparam.model`'s.

    Arguments and errors as in `recparam.RPM`.
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

        The encoder's mode is that of the call: to start a training, call it in training mode, as batch norm makes other
        latents in evaluation mode. Evaluating sets nothing: what is not set is an error there.

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

    def _recognised(
        self,
        observations: Sequence[Tensor],
        options: RowOptions,
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
        scored = self._scored(observations, options)
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
            of_rows = {"rows": options.get("rows"), "num_samples": options.get("num_samples", 1)}
            of_q = self.posterior(scored.distributions, observations, generator=scored.generator, **of_rows)
        recognised = self._with_bank(scored)
        if self._learning:
            self.marginal.remember(scored)
        if integrate:
            return recognised.in_closed_form(scored.distributions)
        if in_bank and recognised.joint.situation in (Situation.INDEPENDENT, Situation.QUEUE):
            bank, own = recognised.joint.bank, recognised.queries.own
            labels = scored.labels
            if labels is None and bank.labels is not None and own is not None:
                labels = bank.labels.map(lambda part: part[own])
            batch = replace(scored, rows=None, weights=recognised.weights, labels=labels)
            within = BatchMarginal(exclude_within=bank.exclude_within)
            return replace(within.recognised(batch, encode=self._encode), doubt=scored.doubt)
        if of_q is not None:
            return replace(recognised, particles=of_q, recognition=recognised.particles)
        return recognised

    def _scored(self, observations: Sequence[Tensor], options: RowOptions) -> Scored:
        """Check, encode and sample the rows to be scored."""
        if unknown := set(options) - set(RowOptions.__annotations__):
            known = ", ".join(RowOptions.__annotations__)
            raise TypeError(f"Expected keyword arguments among {known}; got {', '.join(sorted(unknown))}.")
        weights, rows, labels = options.get("weights"), options.get("rows"), options.get("labels")
        num_samples, generator = options.get("num_samples", 1), options.get("generator")
        self._check(observations)
        check_count("num_samples", num_samples)
        size = observations[0].shape[0]
        given = None if weights is None else normalised_weights(weights, size)
        if self.posterior.takes_rows and not isinstance(self.marginal, DatasetMarginal):
            bank_rows = None  # the posterior's alone: this bank has no rows of its own
        else:
            bank_rows = rows
        self.marginal.check(observations, bank_rows)
        if labels is not None and (not isinstance(labels, Labels) or len(labels) != size):
            got = f"labels of {len(labels)}" if isinstance(labels, Labels) else repr(labels)
            raise ValueError(f"Expected labels as rp.Labels of the {size} scored rows; got {got}.")
        distributions = self._encode(*observations)
        self.prior.check_densities(distributions)
        doubt = self._doubt(observations, distributions)
        own = self.posterior if isinstance(self.posterior, RecognitionPosterior) else RecognitionPosterior()
        particles = own(distributions, observations, num_samples=num_samples, generator=generator)
        reference = particles.log_weights
        row_weights = reference.new_full((size,), 1 / size) if given is None else given.to(reference)
        return Scored(
            observations,
            distributions,
            particles,
            row_weights,
            rows=bank_rows,
            labels=labels,
            generator=generator,
            recognition=self._models,
            doubt=doubt,
        )

    def _doubt(self, observations: Sequence[Tensor], distributions: Sequence[Distribution]) -> str | None:
        """Set what training sets, and say why no direction holds of what was encoded, where that is so."""
        if self.prior.prepare(*(d.mean.detach() for d in distributions)):
            return FITTED
        doubt = doubt_of_mode(self)
        if doubt is None and not self._learning:  # a step of training does not pay for it
            half = any(p.dtype in HALF for p in self.recognition.parameters())
            doubt = doubt_of_encoder(self._encode, observations, distributions, half=half)
        return doubt

    def _with_bank(self, scored: Scored) -> Recognised:
        return replace(self.marginal.recognised(scored, encode=self._encode), doubt=scored.doubt)

    def _warned(self, bound: Bound, recognised: Recognised) -> Bound:
        """The bound; a warning if it sits at its ceiling, unless it is the objective of a training step."""
        bank = recognised.joint.bank
        if not self._learning:
            steps = self.prior.scored_steps(len(recognised.particles.latents))
            warn_at_ceiling(bound, rows=bank.size, source=bank.source, steps=steps, stacklevel=3)
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
