"""One prior, one seed: held-out evidence and linear decoding; and what follows from all of them together."""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import torch
from sklearn.decomposition import PCA

import recparam as rp
from recparam.bounds import Bound, CeilingWarning
from recparam.comparison import Comparison, Evidence, comparison
from recparam.evaluation import LinearDecoder, r2
from recparam.experiments.ranks import rank_correlation
from recparam.experiments.rat.series import Series
from recparam.experiments.rat.settings import PRIORS, WINDOW, Settings
from recparam.experiments.rat.training import Trained, encoder, latents_of, train

SIDES = ("estimate", "lower", "upper")
"""Of the evidence, as kept of each window."""


def measure_arm(settings: Settings, series: Series, arm: str, seed: int) -> dict[str, Any]:
    """Train one arm, and score it on the held-out block.

    Returns:
        `r2_1` to `r2_P` of linear decoding and their mean `r2`; of what was trained the held-out evidence
        log P(x_3|x_1, x_2) - const in nats, that of its encoder untrained, and every window's (`windows`), so that
        priors can be compared row by row.
    """
    if arm == "mean":
        return decoded(np.zeros((len(series.rows), 1)), series)
    if arm == "pca":
        pca = PCA(settings.latent_dim, svd_solver="full").fit(series.rows[: series.fitted])
        return decoded(pca.transform(series.rows), series)
    if arm == "untrained":
        return decoded(latents_of(encoder(series, settings, seed=seed, start=0), series.rows), series)
    trained = train(arm, series, settings, seed=seed)
    found = _compared(trained, series, settings)
    return {
        "evidence_nats": float(found["trained"].estimate),
        "untrained_nats": float(found["before"].estimate),
        "validation_nats": trained.evidence,
        "best_step": trained.step,
        "formula": cast(rp.InfoNCEPrior, trained.model.prior).formula(),
        **_transition(trained.model),
        **decoded(latents_of(trained.net, series.rows), series),
        "windows": {side: _kept(getattr(found["trained"], side)) for side in SIDES},
    }


def decoded(z: np.ndarray, series: Series) -> dict[str, float]:
    """R2 of each coordinate of the held-out positions, read by least squares fitted on the rows before them."""
    fitted = series.fitted
    predicted = LinearDecoder().fit(z[:fitted], series.position[:fitted]).predict(z[fitted:])
    each = [r2(one, true) for one, true in zip(predicted.T, series.position[fitted:].T, strict=True)]
    return {**{f"r2_{k}": value for k, value in enumerate(each, 1)}, "r2": float(np.mean(each))}


def conclude(results: dict[str, Any]) -> dict[str, Any]:
    """The priors of each seed compared window by window, and whether evidence and decoding put them in one order.

    The windows themselves are taken out of the results; the files of the cells keep them.
    """
    kept = {(run["arm"], run["seed"]): run.pop("windows") for run in results["runs"] if "windows" in run}
    compared = []
    for seed in results["seeds"]:
        evidence = {arm: _evidence(kept[arm, seed]) for arm in PRIORS if (arm, seed) in kept}
        if len(evidence) > 1:
            compared.append({"seed": seed, **_comparison(evidence).facts()})
    orders = {
        name: sorted(
            (arm for arm in PRIORS if arm in results["summary"]), key=lambda arm: -results["summary"][arm][name]["mean"]
        )
        for name in ("evidence_nats", "r2")
    }
    ranks = {"r2": rank_correlation(results["runs"], "evidence_nats", "r2")}
    return {"comparisons": compared, "orders": orders, "evidence_ranks": ranks}


def _transition(model: rp.RPM) -> dict[str, float]:
    """Of an AR(p), how far the next latent follows each earlier one: `a_k`, the mean of the diagonal of A_k."""
    transition = getattr(cast(rp.InfoNCEPrior, model.prior).coupling, "transition", None)
    if not isinstance(transition, rp.LinearAR):
        return {}
    return {f"a_{k}": float(matrix.diagonal().mean()) for k, matrix in enumerate(transition.matrices.detach(), 1)}


def _compared(trained: Trained, series: Series, settings: Settings) -> Comparison:
    models = {"trained": trained.model, "before": trained.before}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CeilingWarning)
        held_out, before = series.rows[series.fitted :], series.rows[: series.fitted]
        return rp.compare(models, held_out, bank=before, window=WINDOW, lag=settings.lag, context=WINDOW - 1)


def _comparison(evidence: dict[str, Evidence]) -> Comparison:
    return comparison(
        evidence,
        targets="log P(x_3|x_1, x_2) - const",
        context=WINDOW - 1,
        bank="the windows before the held-out block",
    )


def _kept(side: Bound | None) -> dict[str, Any] | None:
    """A side as JSON; None where it has no finite value."""
    if side is None or not bool(side.per_observation.isfinite().all()):
        return None
    values = [round(float(value), 5) for value in side.per_observation]
    influence = side.influence()
    bank = None if influence is None else [round(float(c), 5) for c in len(influence[0]) * influence[0]]
    return {"nats": values, "kind": side.kind, "ceiling_nats": side.ceiling, "bank_nats": bank}


def _evidence(kept: dict[str, Any]) -> Evidence:
    sides: dict[str, Bound | None] = {}
    for side in SIDES:
        found = kept[side]
        sides[side] = None
        if found is not None:
            each = torch.tensor(found["nats"], dtype=torch.float64)
            kept_bank = found.get("bank_nats")  # the influence of each row of the bank, times their number
            columns = None if kept_bank is None else torch.tensor(kept_bank, dtype=torch.float64) / len(kept_bank)
            of_bank = None if columns is None else (columns, None)
            sides[side] = Bound(
                each.mean(), each, "elbo", found["kind"], found["ceiling_nats"], of_bank=of_bank
            )
    return Evidence(cast(Bound, sides["estimate"]), sides["lower"], sides["upper"])
