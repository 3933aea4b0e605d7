"""Held-out bounds against a bank of fixed size: the latents of fitted pairs, whatever rows are scored together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from recparam import bounds
from recparam.banks import Bank
from recparam.bounds import Bound
from recparam.data.pairs import Pairs, Views, as_tensor
from recparam.data.recording import Recording
from recparam.estimator.choices import recognition
from recparam.joint import RecognitionJoint
from recparam.marginals import DatasetMarginal
from recparam.model import RPM
from recparam.priors import InfoNCEPrior, JointGaussianPrior, ParametricPrior, Side
from recparam.recognition import recognise

_CHUNK_NUMBERS = 1 << 23  # numbers of the data that the encoder sees at once
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
    return _through(model, [network(model, index)], chunks)[0]


def encoded_pairs(model: RPM, pairs: Pairs, chosen: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """The recognition parameters of the x and x' of some pairs, or of all; a row that is in several is encoded once."""
    chosen = np.arange(len(pairs)) if chosen is None else chosen
    if isinstance(pairs, Views):
        x, x_prime = _through(
            model, [network(model), network(model, 1)], map(pairs.tensors, _chunks(chosen, pairs.recording))
        )
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
def _through(model: RPM, nets: Sequence[nn.Module], chunks: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    """What each network makes of its part of each chunk, in evaluation mode."""
    device, was = next(model.parameters()).device, model.training
    model.eval()
    try:
        parts = [[net(x.to(device)) for net, x in zip(nets, chunk, strict=True)] for chunk in chunks]
    finally:
        model.train(was)
    return [torch.cat(side) for side in zip(*parts, strict=True)]


def _chunks(rows: np.ndarray, recording: Recording) -> Iterator[np.ndarray]:
    size = max(1, _CHUNK_NUMBERS // max(1, math.prod(recording.shape[1:])))
    return (rows[start : start + size] for start in range(0, len(rows), size))


class Head:
    """What is left of a model once its observations are encoded: the prior, and R through a bank of fixed size.

    Args:
        model: Its prior is used as it is, on the device of the bank.
        bank: Recognition parameters of the bank's x and x', each (K, width).
    """

    def __init__(self, model: RPM, bank: tuple[Tensor, Tensor]) -> None:
        self.bank, self.prior = bank, model.prior
        self.recognition = recognition(model.prior, nn.Identity())
        self.model = RPM(self.recognition, model.prior).eval()

    @torch.no_grad()
    def elbo(self, x: Tensor, x_prime: Tensor, *, side: Side = None, seed: int = 0) -> Bound:
        """The ELBO of encoded pairs against the bank.

        Args:
            x: Recognition parameters (B, width).
            x_prime: As x.
            side: None counts a pair's own latents beside the bank's K, which bounds the value by log(K + 1); "upper"
                and "lower" as `RPM.elbo` with a bank of other data.
            seed: Of the draws of latents that are no points.

        Returns:
            With side=None an estimate under an InfoNCE prior (and a lower bound on the MI, for every f, if rows are
            independent), and a lower bound under a parametric one (again if rows are independent).
        """
        generator = torch.Generator(x.device).manual_seed(seed)
        if side is not None:
            among = RPM(self.recognition, self.prior, marginal=DatasetMarginal(*self.bank)).eval()
            return among.elbo(x, x_prime, side=side, num_samples=_DRAWS, generator=generator)
        size = len(self.bank[0])
        if isinstance(self.prior, InfoNCEPrior):
            return replace(
                bounds.infonce(self.prior.coupling, x, x_prime, negatives=self.bank[1]), of="elbo", kind="estimate"
            )
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
    scored = spread_out(len(held_out), most)
    bank = bank_rows[spread_out(len(bank_rows), most)]

    def look() -> Bound:
        return Head(model, encoded_pairs(model, fitted, bank)).elbo(*encoded_pairs(model, held_out, scored))

    return look
