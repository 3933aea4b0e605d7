"""What scores encoded rows: the prior over a bank of fixed size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from recparam.bounds import Bound
from recparam.bounds.influence import OfBank, joined, on_bank
from recparam.couplings.chains import FirstOrder
from recparam.estimator.names import recognition
from recparam.marginals import DatasetMarginal
from recparam.marginals.bank import Bank
from recparam.marginals.joint import RecognitionJoint, Situation
from recparam.model import RPM
from recparam.model.sides import Against, beside_bank, sides_of_latents
from recparam.priors import InfoNCEPrior, JointGaussianPrior, ParametricPrior, Side
from recparam.recognition import recognise

_DRAWS = 16  # of latents that are no points


class Head:
    """What is left of a model once its observations are encoded: the prior, and R through a bank of fixed size.

    Args:
        model: Its prior is used as it is, on the device of the bank.
        bank: Recognition parameters of the bank's x and x', each (K, width), in order of time.
        strata: Which of the bank's pairs are negatives of which, (K,), as `Pairs.strata`; None: all of all.
    """

    def __init__(self, model: RPM, bank: tuple[Tensor, Tensor], *, strata: Tensor | None = None) -> None:
        self.bank, self.strata, self.prior = bank, strata, model.prior
        if model.prior.order > 1:
            self.prior = InfoNCEPrior(FirstOrder(cast(InfoNCEPrior, model.prior).coupling))
        self.recognition = recognition(model.prior, nn.Identity())
        self.model = RPM(self.recognition, self.prior).eval()

    @torch.no_grad()
    def elbo(
        self, x: Tensor, x_prime: Tensor, *, strata: Tensor | None = None, side: Side = None, seed: int = 0
    ) -> Bound:
        """The ELBO of encoded pairs against the bank.

        Args:
            x: Recognition parameters (B, width).
            x_prime: As x.
            strata: Which of the strata each pair is of, (B,), where the bank has strata: it meets those alone.
            side: None adds a pair's own latents to the bank's K, which bounds the value by log(K + 1); "upper"
                and "lower" as `RPM.elbo` with a bank of other data.
            seed: Of the draws of latents that are no points.

        Returns:
            With side=None an estimate under an InfoNCE prior (and a lower bound on the MI, for every f, if rows are
            independent), and a lower bound under a parametric one (again if rows are independent).
        """
        if strata is not None:
            return self._by_stratum(x, x_prime, strata, side=side, seed=seed)
        generator = torch.Generator(x.device).manual_seed(seed)
        if side == "lower" and isinstance(self.prior, InfoNCEPrior):  # whose bank is split in two
            return sides_of_latents(
                self.prior, (x, x_prime), Against(self.bank), labels=None, context=1, sides=("lower",)
            )[0]
        if side is not None:
            among = RPM(self.recognition, self.prior, marginal=DatasetMarginal(*self.bank)).eval()
            return among.elbo(x, x_prime, side=side, num_samples=_DRAWS, generator=generator)
        size = len(self.bank[0])
        if isinstance(self.prior, InfoNCEPrior):
            return beside_bank(self.prior.coupling, x, x_prime, self.bank[1])
        if not isinstance(self.prior, ParametricPrior):
            raise ValueError(
                f"Expected an InfoNCE or a parametric prior, which a bank of fixed size can score; got "
                f"{type(self.prior).__name__}. Use model_.elbo on a batch."
            )
        own = [self.recognition(part) for part in (x, x_prime)]
        latents = recognise(own, num_samples=_DRAWS, generator=generator).latents
        banked = [self.recognition(part) for part in self.bank]
        bank = Bank(banked, recognise(banked, generator=generator))
        log_prior = self.prior.log_prob(*latents)

        def rows(bank: Bank) -> Tensor:
            log_ratio, joint = log_prior, RecognitionJoint(bank, situation=Situation.INDEPENDENT)
            for j, z in enumerate(latents):  # the mixture of the bank's K components and the own one
                log_r = torch.logaddexp(joint.log_marginal(j, z) + math.log(size), own[j].log_prob(z))
                log_ratio = log_ratio - log_r + math.log(size + 1)
            return log_ratio.mean(0)

        def of_bank() -> OfBank:
            return on_bank(lambda factors: rows(bank.reweighted(factors)).mean(), bank.weights), None

        each = rows(bank)
        return Bound(each.mean(), each, "elbo", "lower", ceiling=math.log(size + 1), of_bank=of_bank)

    def _by_stratum(self, x: Tensor, x_prime: Tensor, strata: Tensor, *, side: Side, seed: int) -> Bound:
        parts: list[tuple[Tensor, Bound]] = []
        for stratum in strata.unique():
            here, among = strata == stratum, cast(Tensor, self.strata) == stratum
            if not among.any():
                raise ValueError(
                    "Expected pairs of sessions that were paired when the model was fitted; got a pair of others."
                )
            head = Head(self.model, (self.bank[0][among], self.bank[1][among]))
            parts.append((here.nonzero()[:, 0], head.elbo(x[here], x_prime[here], side=side, seed=seed)))
        return _averaged(parts)

    @torch.no_grad()
    def sample(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents (z, z') of the prior, each (num, D); under an InfoNCE prior R(z) and R(z') are the bank's."""
        if isinstance(self.prior, JointGaussianPrior):
            rho = self.prior.correlation
            z, noise = (torch.randn(num, len(rho), generator=generator) for _ in range(2))
            return z, rho * z + (1 - rho.square()).sqrt() * noise
        rows = torch.randint(len(self.bank[0]), (num,), generator=generator)
        predicted = self.model.predictive(self.bank[0][rows], self.bank[1], generator=generator)
        return predicted.z, predicted.sample(1, generator=generator).latents[:, 0]


def elbo_by_stratum(model: RPM, x: Tensor, x_prime: Tensor) -> Bound:
    """The training bound of a batch whose rows say which session they are of, as those of `own_channels` do.

    A batch mixes all sessions, so that each step sees pairs that cross; but a pair meets, in its denominator, those of
    the same two sessions alone. One that is alone is left out.

    Raises:
        ValueError: All of them are.
    """
    _, strata = torch.stack([x[:, 0], x_prime[:, 0]], 1).unique(dim=0, return_inverse=True)
    chosen = [(strata == stratum).nonzero()[:, 0] for stratum in strata.unique()]
    parts = [(rows, model.elbo(x[rows], x_prime[rows])) for rows in chosen if len(rows) > 1]
    if not parts:
        raise ValueError(
            f"Expected batches that hold two pairs of the same two sessions; got none in {len(x)} pairs. Use a larger "
            "batch_size."
        )
    return _averaged(parts)


def _averaged(parts: Sequence[tuple[Tensor, Bound]]) -> Bound:
    """The average over all rows of bounds on some of them; its ceiling is the average of theirs."""
    rows, bounds_of = torch.cat([rows for rows, _ in parts]), [bound for _, bound in parts]
    each = torch.cat([bound.per_observation for bound in bounds_of])[rows.argsort()]
    ceilings = [bound.ceiling for bound in bounds_of]
    ceiling = None
    if not any(c is None for c in ceilings):
        ceiling = sum(len(rows) * (c or 0.0) for (rows, _), c in zip(parts, ceilings, strict=True)) / len(each)
    value = torch.stack([len(rows) / len(each) * bound.value for rows, bound in parts]).sum()
    doubt = next((bound.doubt for bound in bounds_of if bound.doubt), None)
    whole = Bound(value, each, bounds_of[0].of, bounds_of[0].kind, ceiling=ceiling, of_bank=joined(parts))
    return whole.doubted(doubt)
