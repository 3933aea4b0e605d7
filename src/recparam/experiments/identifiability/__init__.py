"""Do priors that match the world find its latents? After Zimmermann et al. (2021); docs/identifiability.md."""

from functools import partial
from typing import Any

from recparam.evaluation import mean_interval
from recparam.experiments.grid import Experiment
from recparam.experiments.identifiability.settings import CONTROLS, MATCHING, Settings


def identifiability_experiment(settings: Settings) -> Experiment:
    """The experiment with these settings."""
    from recparam.experiments.identifiability.measure import measure_arm
    from recparam.experiments.identifiability.plot import draw_identifiability

    measure = partial(measure_arm, settings)
    return Experiment(measure, settings.identity(), settings.arms(), conclude, draw_identifiability)


def conclude(results: dict[str, Any]) -> dict[str, Any]:
    """How far each trained arm is behind the matching prior, in nats: the mean of its seeds' differences."""
    evidence: dict[str, dict[int, float]] = {}
    for run in results["runs"]:
        if "evidence_nats" in run:
            evidence.setdefault(run["arm"], {})[run["seed"]] = run["evidence_nats"]
    summary = {arm: dict(found) for arm, found in results["summary"].items()}
    for arm, own in evidence.items():
        world, prior = arm.split("/")
        best = evidence.get(f"{world}/{MATCHING[world]}", {})
        behind = [best[seed] - value for seed, value in own.items() if seed in best]
        if behind and prior not in (MATCHING[world], *CONTROLS):
            summary[arm]["behind_matching_nats"] = mean_interval(behind)._asdict()
    return {"summary": summary}
