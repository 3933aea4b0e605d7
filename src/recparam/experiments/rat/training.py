"""One prior trained from several starts, of which the evidence on a block of its own chooses."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

import recparam as rp
from recparam.bounds import Bound
from recparam.data.batches import PairBatches
from recparam.estimator.names import choose_encoder, make_network
from recparam.experiments.rat.series import Series, training_windows, windows
from recparam.experiments.rat.settings import WINDOW, Settings
from recparam.model.sides import Against, sides_of_latents
from recparam.training.ascent import Ascent
from recparam.utils.evaluating import evaluating
from recparam.utils.seeds import seeded

# As the estimator has them (docs/estimator.md).
_LEARNING_RATE = 3e-3
_DROPOUTS = (0.0, 0.3)  # of the starts in turn
_FIRST = 1 / 10  # of the steps, after which a start is chosen
_LOOKS = 20
_PATIENT = 1 / 3  # of the steps, without a better look


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
    with seeded(_mixed(seed, start)):
        return make_network(spec, "mlp", rows=lambda: rows, restart=start)


def train(prior: str, series: Series, settings: Settings, *, seed: int) -> Trained:
    """Train all starts for a tenth of the steps, and the best by the evidence on the validation block to the end.

    Raises:
        TrainingDiverged: A bound that is not finite.
    """
    index = training_windows(series, settings.lag)
    rows = torch.from_numpy(series.rows)
    first = [rows[torch.from_numpy(index[:, j])] for j in range(WINDOW)]
    every = max(1, min(settings.steps // _LOOKS, 100))
    fabric = Fabric(accelerator="cpu", devices=1)
    befores: list[rp.RPM] = []
    ascents: list[Ascent] = []
    for start in range(settings.starts):
        net = encoder(series, settings, seed=seed, start=start)
        model = rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(coupling_of(prior, settings.latent_dim)))
        before = copy.deepcopy(model)
        before.initialise(*first)
        befores.append(before.eval())
        ascents.append(
            Ascent(
                model,
                PairBatches(series.rows, pairs=index, batch_size=settings.batch_size, seed=_mixed(seed, start)),
                steps=settings.steps,
                lr=_LEARNING_RATE,
                seed=_mixed(seed, start),
                fabric=fabric,
                validate=partial(_validation, model, series, settings.lag),
                every=every,
                patience=max(every, int(settings.steps * _PATIENT)),
            )
        )
    if len(ascents) > 1:
        for ascent in ascents:
            ascent.run(max(every, int(settings.steps * _FIRST) // every * every))
    best = max(range(len(ascents)), key=lambda start: float(ascents[start].best) if len(ascents) > 1 else 0.0)
    ascents[best].run(settings.steps)
    ascents[best].restore()
    return Trained(ascents[best].model, befores[best], float(ascents[best].best), ascents[best].best_step)


def latents_of(net: nn.Module, rows: np.ndarray) -> np.ndarray:
    """Latents of rows, (N, D), in evaluation mode."""
    with evaluating(net), torch.no_grad():
        return net(torch.from_numpy(rows)).double().numpy()


def _validation(model: rp.RPM, series: Series, lag: int) -> Bound:
    """The estimate of log P(x_3|x_1, x_2) on the validation block, on a bank of the rows that are trained on."""
    with evaluating(model), torch.no_grad():
        z: Tensor = model.encode(torch.from_numpy(series.rows[: series.fitted]), index=0).mean

        def at(index: np.ndarray) -> list[Tensor]:
            return [z[torch.from_numpy(index[:, j])] for j in range(WINDOW)]

        scored = at(windows(series.trained, series.fitted, lag))
        bank = Against(at(training_windows(series, lag)))
        (found,) = sides_of_latents(model.prior, scored, bank, labels=None, context=WINDOW - 1, sides=(None,))
    return found


def _mixed(seed: int, start: int) -> int:
    return int(np.random.SeedSequence([seed, start]).generate_state(1)[0] >> 1)
