"""Few-shot classification of handwritten digits from latents that no label has touched (docs/few-shot.md)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from recparam.experiments.few_shot.settings import Settings
from recparam.experiments.grid import Cell, run_grid
from recparam.experiments.outcome import Outcome
from recparam.experiments.ranks import rank_correlation

RANKED = tuple(
    f"{reader}_{shots}{suffix}"
    for suffix in ("", "_moved")
    for reader in ("nearest_mean", "regression")
    for shots in (1, 5)
)
"""Accuracies that are compared with the evidence."""


def run_few_shot(
    settings: Settings, *, seeds: tuple[int, ...], out: Path, jobs: int | None, say: Callable[[str], None] = print
) -> Outcome[Cell]:
    """Run the cells that the folder lacks, and draw the figure; arguments and errors as of `run_grid`."""
    from recparam.experiments.few_shot.measure import measure_arm
    from recparam.experiments.few_shot.plot import draw_few_shot

    return run_grid(
        partial(measure_arm, settings),
        identity=settings.identity(),
        arms=settings.arms(),
        seeds=seeds,
        out=out,
        conclude=conclude,
        draw=draw_few_shot,
        jobs=jobs,
        say=say,
    )


def conclude(results: dict[str, Any]) -> dict[str, Any]:
    """Spearman's rank correlation, over the priors, of held-out evidence and each accuracy."""
    return {"evidence_ranks": {name: rank_correlation(results["runs"], "elbo_nats", name) for name in RANKED}}
