"""The results of an experiment, gathered from the folders of its finished runs."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from recparam.evaluation import mean_interval
from recparam.experiments.balls.settings import ARMS, PAPER_TRAINING, RECIPE, VIDEOS, Run, Settings
from recparam.experiments.balls.work import finished
from recparam.versions import versions

FORMAT = 1


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
            "paper_training": asdict(PAPER_TRAINING),
            "recipe": asdict(RECIPE),
            "coordinates": "pixels of a 256-pixel frame, at every size",
            "batch_norm": "recalibrated on the training video with frozen weights",
        },
        "runs": found,
        "failed": [
            {"video": run.video, "seed": run.seed, "arm": run.arm, "message": message}
            for run, message in failed.items()
        ],
        "summary": summarise(found, scale=settings.scale),
    }


def summarise(runs: list[dict[str, Any]], *, scale: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Average the runs of each video and arm over seeds.

    Args:
        runs: results of runs.
        scale: pixels of the paper's frame per pixel of the frames.

    Returns:
        For each video and arm: mean error with its interval over seeds, per ball, matched, and scaled to the
        paper's frame. The interval is None with a single seed.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for video, arm in product(VIDEOS, ARMS):
        group = [run for run in runs if (run["video"], run["arm"]) == (video, arm)]
        if not group:
            continue
        mean, low, high = mean_interval([run["error_px"] for run in group])
        matched = [run["matched_error_px"] for run in group if run["matched_error_px"] is not None]
        balls = zip(*(run["error_per_ball_px"] for run in group), strict=True)
        summary.setdefault(video, {})[arm] = {
            "mean_px": mean,
            "low_px": low,
            "high_px": high,
            "per_ball_px": [sum(errors) / len(errors) for errors in balls],
            "matched_mean_px": sum(matched) / len(matched) if matched else None,
            "mean_256_px": mean * scale,
        }
    return summary


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
