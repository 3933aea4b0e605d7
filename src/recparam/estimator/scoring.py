"""Held-out bounds against a bank of fixed size: the latents of fitted pairs, whatever rows are scored together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from recparam.bounds import Bound
from recparam.couplings.chains import OfContext
from recparam.data.pairs import Pairs, Views, as_tensor, rows_at_once
from recparam.data.recording import Recording
from recparam.estimator.choices import recognition
from recparam.marginals import DatasetMarginal
from recparam.marginals.bank import Bank
from recparam.marginals.joint import RecognitionJoint
from recparam.model import RPM
from recparam.model.sides import Against, beside_bank, sides_of_latents
from recparam.priors import InfoNCEPrior, JointGaussianPrior, ParametricPrior, Side
from recparam.recognition import recognise
from recparam.utils.evaluating import evaluating

_DRAWS = 16


def parameters_of(model: RPM, recording: Recording, rows: np.ndarray | None = None, *, index: int = 0) -> Tensor:
    """The recognition network's output for rows of a recording, in chunks and evaluation mode.

    Args:
        model: Whose recognition model it is.
        recording: The data.
        rows: Which rows; None: all.
        index: Which observation they are, from zero; of no effect where x and x' share a recognition model.

    Returns:
        Shape (rows, width): latents, or means and log-variances.
    """
    rows = np.arange(len(recording)) if rows is None else rows
    chunks = ((as_tensor(recording[part]),) for part in _chunks(rows, recording))
    return _through(model, [network(model, index)], chunks, len(rows))[0]


def encoded_pairs(model: RPM, pairs: Pairs, chosen: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """The recognition parameters of the x and x' of some pairs, or of all; a row that is in several is encoded once.

    For a prior of order p those of x, and of the rows before it, stand side by side, oldest first: (pairs, p width).
    """
    chosen = np.arange(len(pairs)) if chosen is None else chosen
    if model.prior.order > 1:
        steps = np.column_stack([pairs.rows(chosen), pairs.second[chosen]])
        unique, places = np.unique(steps, return_inverse=True)
        z = parameters_of(model, pairs.recording, unique)[places.reshape(steps.shape)]
        return z[:, :-1].flatten(1), z[:, -1]
    if isinstance(pairs, Views):
        chunks = map(pairs.tensors, _chunks(chosen, pairs.recording))
        x, x_prime = _through(model, [network(model), network(model, 1)], chunks, len(chosen))
        return x, x_prime
    if model.shared:
        rows, places = np.unique(np.concatenate([pairs.first[chosen], pairs.second[chosen]]), return_inverse=True)
        x, x_prime = parameters_of(model, pairs.recording, rows)[places].split(len(chosen))
        return x, x_prime
    sides = []
    for index, (recording, rows) in enumerate(pairs.sides):
        unique, places = np.unique(rows[chosen], return_inverse=True)
        sides.append(parameters_of(model, recording, unique, index=index)[places])
    return sides[0], sides[1]


def network(model: RPM, index: int = 0) -> nn.Module:
    """The network that encodes an observation, counted from zero."""
    return cast(nn.Module, model.recognition[0 if model.shared else index].net)


@torch.no_grad()
def _through(
    model: RPM, nets: Sequence[nn.Module], chunks: Iterable[tuple[Tensor, ...]], count: int
) -> list[Tensor]:
    """What each network makes of its part of each chunk, of so many rows in all, in evaluation mode."""
    device = next(model.parameters()).device
    # Written into one tensor: small results kept between large blocks would keep the blocks' memory.
    found: list[Tensor] = []
    start = 0
    with evaluating(model):
        for chunk in chunks:
            for side, (net, x) in enumerate(zip(nets, chunk, strict=True)):
                part = net(x.to(device))
                if not start:
                    found.append(part.new_empty((count, *part.shape[1:])))
                found[side][start : start + len(x)] = part
            start += len(chunk[0])
    return found


def _chunks(rows: np.ndarray, recording: Recording) -> Iterator[np.ndarray]:
    size = rows_at_once(recording.shape[1:])
    return (rows[start : start + size] for start in range(0, len(rows), size))


class Head:
    """What is left of a model once its observations are encoded: the prior, and R through a bank of fixed size.

    Args:
        model: Its prior is used as it is, on the device of the bank.
        bank: Recognition parameters of the bank's x and x', each (K, width), in order of time.
        groups: Which of the bank's pairs are negatives of which, (K,), as `Pairs.groups`; None: all of all.
    """

    def __init__(self, model: RPM, bank: tuple[Tensor, Tensor], *, groups: Tensor | None = None) -> None:
        self.bank, self.groups, self.prior = bank, groups, model.prior
        if model.prior.order > 1:
            self.prior = InfoNCEPrior(OfContext(cast(InfoNCEPrior, model.prior).coupling))
        self.recognition = recognition(model.prior, nn.Identity())
        self.model = RPM(self.recognition, self.prior).eval()

    @torch.no_grad()
    def elbo(
        self, x: Tensor, x_prime: Tensor, *, groups: Tensor | None = None, side: Side = None, seed: int = 0
    ) -> Bound:
        """The ELBO of encoded pairs against the bank.

        Args:
            x: Recognition parameters (B, width).
            x_prime: As x.
            groups: Which of the groups each pair is of, (B,), where the bank has groups: it meets those alone.
            side: None counts a pair's own latents beside the bank's K, which bounds the value by log(K + 1); "upper"
                and "lower" as `RPM.elbo` with a bank of other data.
            seed: Of the draws of latents that are no points.

        Returns:
            With side=None an estimate under an InfoNCE prior (and a lower bound on the MI, for every f, if rows are
            independent), and a lower bound under a parametric one (again if rows are independent).
        """
        if groups is not None:
            return self._by_group(x, x_prime, groups, side=side, seed=seed)
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
        given = [self.recognition(part) for part in (x, x_prime)]
        latents = recognise(given, num_samples=_DRAWS, generator=generator).latents
        banked = [self.recognition(part) for part in self.bank]
        joint = RecognitionJoint(Bank(banked, recognise(banked, generator=generator)), situation="independent")
        log_ratio = self.prior.log_prob(*latents)
        for j, z in enumerate(latents):  # the mixture of the bank's K components and the own one
            log_r = torch.logaddexp(joint.log_marginal(j, z) + math.log(size), given[j].log_prob(z))
            log_ratio = log_ratio - log_r + math.log(size + 1)
        each = log_ratio.mean(0)
        return Bound(each.mean(), each, "elbo", "lower", ceiling=math.log(size + 1))

    def _by_group(self, x: Tensor, x_prime: Tensor, groups: Tensor, *, side: Side, seed: int) -> Bound:
        parts: list[tuple[Tensor, Bound]] = []
        for group in groups.unique():
            here, among = groups == group, cast(Tensor, self.groups) == group
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
        ahead = self.model.predictive(self.bank[0][rows], self.bank[1], generator=generator)
        return ahead.z, ahead.sample(1, generator=generator).latents[:, 0]


def spread_out(count: int, most: int) -> np.ndarray:
    """At most so many indices of `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def elbo_by_group(model: RPM, x: Tensor, x_prime: Tensor) -> Bound:
    """The training bound of a batch whose rows say which session they are of, as those of `own_channels` do.

    A batch mixes all sessions, so that each step sees pairs that cross; but a pair meets, in its denominator, those of
    the same two sessions alone. One that is alone is left out.

    Raises:
        ValueError: All of them are.
    """
    _, groups = torch.stack([x[:, 0], x_prime[:, 0]], 1).unique(dim=0, return_inverse=True)
    chosen = [(groups == group).nonzero()[:, 0] for group in groups.unique()]
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
    return Bound(value, each, bounds_of[0].of, bounds_of[0].kind, ceiling=ceiling)


def spread_pairs(pairs: Pairs, most: int) -> np.ndarray:
    """At most so many of some pairs, evenly spaced; of each group as many."""
    if pairs.groups is None:
        return spread_out(len(pairs), most)
    names = np.unique(pairs.groups)
    each = [np.flatnonzero(pairs.groups == name) for name in names]
    return np.concatenate([members[spread_out(len(members), max(1, most // len(names)))] for members in each])


def groups_of(pairs: Pairs, chosen: np.ndarray | None = None) -> Tensor | None:
    """`Pairs.groups` of some pairs, or of all."""
    groups = pairs.groups
    return None if groups is None else torch.from_numpy(groups if chosen is None else groups[chosen])


def validation(
    model: RPM, fitted: Pairs, held_out: Pairs, *, bank_rows: np.ndarray, most: int = 1024
) -> Callable[[], Bound]:
    """A function of nothing that gives the model's held-out bound as it is at the call.

    Args:
        model: As it will be trained.
        fitted: Pairs that the bank is taken from.
        held_out: Pairs to score.
        bank_rows: Which of the fitted pairs are the bank.
        most: Held-out pairs, and pairs of the bank, that are looked at.
    """
    device = next(model.parameters()).device
    among = fitted.where(bank_rows)
    bank = bank_rows[spread_pairs(among, most)]
    scored = spread_pairs(held_out, most)
    groups, own = groups_of(fitted, bank), groups_of(held_out, scored)
    if groups is not None and own is not None:  # pairs of two sessions may be in one of the parts alone
        keep = torch.isin(own, groups)
        scored, own, groups = scored[keep.numpy()], own[keep].to(device), groups.to(device)

    def look() -> Bound:
        head = Head(model, encoded_pairs(model, fitted, bank), groups=groups)
        return head.elbo(*encoded_pairs(model, held_out, scored), groups=own)

    return look
