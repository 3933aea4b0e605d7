"""The results of an experiment, gathered from the folders of its finished runs."""

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from recparam.evaluation import mean_interval
from recparam.experiments.balls.settings import ARMS, TRAINED_ARMS, VIDEOS, Run, Settings, training_facts
from recparam.experiments.ranks import spearman
from recparam.utils.versions import versions

FORMAT = 1


def run_settings(settings: Settings, run: Run) -> dict[str, Any]:
    """Return what a finished run must have been made with to count as this one."""
    training = training_facts(run.arm) if run.arm in TRAINED_ARMS else None
    shared = {k: v for k, v in settings.identity().items() if k not in ("paper_training", "recipe", "richer_training")}
    return {**shared, "video": run.video, "seed": run.seed, "arm": run.arm, "training": training}


def finished(settings: Settings, run: Run, out: Path) -> dict[str, Any] | None:
    """Return the result of a run that is complete and was made with equal settings, else None."""
    folder = out / run.folder
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or not (folder / "arrays.npz").is_file():
        return None
    return result if result.get("settings") == run_settings(settings, run) else None


def collect(settings: Settings, out: Path, failed: Mapping[Run, str], *, seconds: float) -> dict[str, Any]:
    """Gather every finished run of a folder, those of earlier commands included.

    Args:
        settings: of the experiment.
        out: its folder.
        failed: message of each run that did not finish.
        seconds: duration of the command.

    Returns:
        The content of `results.json`; errors in pixels of the frames, `*_256*` in pixels of the paper's
        frame, bounds in nats per pair.
    """
    found: list[dict[str, Any]] = []
    for run in _runs_in(out):
        result = finished(settings, run, out)
        if result is not None:
            found.append({key: value for key, value in result.items() if key != "settings"})
    return {
        "format": FORMAT,
        "preset": settings.preset,
        "label": settings.label,
        "size_px": settings.size,
        "diameter_px": settings.diameter,
        "seeds": sorted({result["seed"] for result in found}),
        "videos": [video for video in VIDEOS if any(result["video"] == video for result in found)],
        "arms": [arm for arm in ARMS if any(result["arm"] == arm for result in found)],
        "seconds": round(seconds, 3),
        "versions": versions(),
        "settings": {
            **settings.identity(),
            "coordinates": "pixels of a 256-pixel frame, at every size",
            "batch_norm": "recalibrated on the training video with frozen weights",
        },
        "runs": found,
        "failed": [
            {"video": run.video, "seed": run.seed, "arm": run.arm, "message": message}
            for run, message in failed.items()
        ],
        "summary": summarise(found, scale=settings.scale),
        "rank_correlations": rank_correlations(found),
    }


def summarise(runs: list[dict[str, Any]], *, scale: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Average the runs of each video and arm over seeds.

    Args:
        runs: results of runs.
        scale: pixels of the paper's frame per pixel of the frames.

    Returns:
        For each video and arm: mean error with its interval over seeds, per ball, matched, and scaled to the
        paper's frame; mean and lowest MCC; mean evidence. The interval is None with a single seed.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for video, arm in product(VIDEOS, ARMS):
        group = [run for run in runs if (run["video"], run["arm"]) == (video, arm)]
        if not group:
            continue
        mean, low, high = mean_interval([run["error_px"] for run in group])
        balls = zip(*(run["error_per_ball_px"] for run in group), strict=True)
        summary.setdefault(video, {})[arm] = {
            "mean_px": mean,
            "low_px": low,
            "high_px": high,
            "per_ball_px": [sum(errors) / len(errors) for errors in balls],
            "matched_mean_px": _mean(group, "matched_error_px"),
            "mean_256_px": mean * scale,
            "mcc_mean": _mean(group, "mcc"),
            "mcc_lowest": min((run["mcc"] for run in group if run["mcc"] is not None), default=None),
            "evidence_mean_nats": _mean(group, "evidence_nats"),
        }
    return summary


def rank_correlations(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Whether the evidence ranks as the labels would: Spearman's rank correlations, over trained models.

    Args:
        runs: results of runs.

    Returns:
        For each video, over the starts of each arm of several ("starts of steps", all seeds together; their evidence
        with independent objects, which chooses) and over all models with a prior ("all"): `with_mcc` and
        `with_error` (of the evidence and minus the error), `models`. None where fewer than four models or one value
        only are there.
    """
    found: dict[str, dict[str, Any]] = {}
    for video in VIDEOS:
        scored = [run for run in runs if run["video"] == video and run["evidence_nats"] is not None]
        groups = {
            f"starts of {arm}": [start for run in scored if run["arm"] == arm for start in run["starts"]]
            for arm in dict.fromkeys(run["arm"] for run in scored if run["starts"])
        }
        groups["all"] = [model for run in scored for model in run["starts"] or [run]]
        by = {name: "evidence_nats" if name == "all" else "groups_evidence_nats" for name in groups}
        found |= {video: {name: _ranked(models, by[name]) for name, models in groups.items()}} if scored else {}
    return found


def _ranked(models: list[dict[str, Any]], by: str) -> dict[str, Any]:
    columns = {"with_mcc": [model["mcc"] for model in models], "with_error": [-model["error_px"] for model in models]}
    evidence = [model[by] for model in models]
    ranked = {name: spearman(evidence, values) if len(models) > 3 else None for name, values in columns.items()}
    return {**ranked, "models": len(models)}


def _mean(runs: list[dict[str, Any]], name: str) -> float | None:
    values = [run[name] for run in runs if run[name] is not None]
    return sum(values) / len(values) if values else None


def _runs_in(out: Path) -> list[Run]:
    runs: list[Run] = []
    for path in (out / "runs").glob("*/seed*/*/result.json"):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            run = Run(str(result["video"]), int(result["seed"]), str(result["arm"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if run.video in VIDEOS and run.arm in ARMS and path == out / run.folder / "result.json":
            runs.append(run)
    return sorted(runs, key=lambda run: (VIDEOS.index(run.video), run.seed, ARMS.index(run.arm)))
