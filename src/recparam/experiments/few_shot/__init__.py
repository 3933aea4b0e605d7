"""Few-shot classification of handwritten digits from latents that no label has touched (docs/few-shot.md)."""

from functools import partial
from typing import Any

from recparam.experiments.few_shot.settings import Settings
from recparam.experiments.grid import Experiment
from recparam.experiments.ranks import rank_correlation

RANKED = tuple(
    f"{reader}_{shots}{suffix}"
    for suffix in ("", "_moved")
    for reader in ("nearest_mean", "regression")
    for shots in (1, 5)
)
"""Accuracies that are compared with the evidence."""


def few_shot_experiment(settings: Settings) -> Experiment:
    """The experiment with these settings."""
    from recparam.experiments.few_shot.measure import measure_arm
    from recparam.experiments.few_shot.plot import draw_few_shot

    measure = partial(measure_arm, settings)
    return Experiment(measure, settings.identity(), settings.arms(), conclude, draw_few_shot)


def conclude(results: dict[str, Any]) -> dict[str, Any]:
    """Spearman's rank correlation, over the priors, of held-out evidence and each accuracy."""
    return {"evidence_ranks": {name: rank_correlation(results["runs"], "elbo_nats", name) for name in RANKED}}
