"""One prior trained from several starts, of which the evidence on a block of its own chooses."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

import recparam as rp
from recparam.data.pairs import Pairs
from recparam.data.recording import Recording
from recparam.estimator.candidates import Candidate
from recparam.estimator.choices import Choice
from recparam.estimator.names import EncoderSpec, choose_encoder, make_network
from recparam.estimator.starts import Plan, Search
from recparam.experiments.rat.series import Series, training_windows, windows
from recparam.experiments.rat.settings import WINDOW, Settings
from recparam.utils.evaluating import evaluating
from recparam.utils.seeds import mixed, seeded

# As the estimator has them (docs/estimator.md).
_LEARNING_RATE = 3e-3
_DROPOUTS = (0.0, 0.3)  # of the starts in turn
_FIRST = (1 / 10, 1 / 10)  # of the steps, after which one start is chosen


@dataclass(frozen=True)
class Trained:
    """The start that was kept.

    Args:
        model: In its best state, in evaluation mode.
        before: The same before its first step, the scale of its coupling set from the data.
        evidence: On the validation block, nats.
        step: Of its best state.
    """

    model: rp.RPM
    before: rp.RPM
    evidence: float
    step: int

    @property
    def net(self) -> nn.Module:
        """The encoder."""
        return cast(nn.Module, self.model.recognition[0].net)


def coupling_of(prior: str, dim: int) -> rp.couplings.Coupling:
    """log f of a prior by name; its lengthscale, and what a transition has, are learned."""
    near = rp.GaussianRBF()
    if prior == "gaussian":
        return near
    return rp.After(rp.ConstantVelocity() if prior == "velocity" else rp.LinearAR(2, dim), near)


def encoder(series: Series, settings: Settings, *, seed: int, start: int) -> nn.Module:
    """The estimator's network for vectors, untrained: the same for all priors of a seed and start."""
    spec = choose_encoder(
        "mlp",
        shape=series.rows.shape[1:],
        latent_dim=settings.latent_dim,
        density=False,
        dropout=_DROPOUTS[start % len(_DROPOUTS)],
    )
    rows = torch.from_numpy(series.rows[: series.trained])
    with seeded(mixed(seed, start)):
        return make_network(spec, "mlp", rows=lambda: rows, restart=start)


def train(prior: str, series: Series, settings: Settings, *, seed: int) -> Trained:
    """Train all starts for a tenth of the steps, and the best by the evidence on the validation block to the end.

    Raises:
        TrainingDiverged: A bound that is not finite.
    """
    recording = Recording.of(series.rows)
    fitted, choosing = (
        Pairs(recording, index[:, -2], index[:, -1], order=WINDOW - 1)
        for index in (training_windows(series, settings.lag), windows(series.trained, series.fitted, settings.lag))
    )
    models: list[rp.RPM] = []
    untrained: list[rp.RPM] = []
    for start in range(settings.starts):
        net = encoder(series, settings, seed=seed, start=start)
        models.append(rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(coupling_of(prior, settings.latent_dim))))
        untrained.append(copy.deepcopy(models[-1]))
        untrained[-1].initialise(*fitted.tensors())
    only = Candidate(
        choice=Choice("mlp", window=1, lag=(settings.lag,)),
        fitted=fitted,
        held_out=choosing,
        bank_rows=np.arange(len(fitted)),
        specs=[[EncoderSpec("MLP", dropout=dropout)] for dropout in _DROPOUTS],
        shapes=[series.rows.shape[1:]],
        make=lambda number, nth: models[nth],
    )
    plan = Plan(
        settings.steps,
        settings.starts,
        settings.batch_size,
        _LEARNING_RATE,
        seed=mixed(seed, 0),
        progress=False,
        halvings=(_FIRST, _FIRST),
    )
    best, *_ = Search([only], None, plan=plan, device=torch.device("cpu")).train()
    return Trained(best.model, untrained[models.index(best.model)].eval(), float(best.best), best.best_step)


def latents_of(net: nn.Module, rows: np.ndarray) -> np.ndarray:
    """Latents of rows, (N, D), in evaluation mode."""
    with evaluating(net), torch.no_grad():
        return net(torch.from_numpy(rows)).double().numpy()
