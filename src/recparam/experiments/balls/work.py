"""One run from start to files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recparam.experiments.balls.arms import run_arm
from recparam.experiments.balls.settings import TRAINED_ARMS, Run, Settings, training_facts
from recparam.experiments.processes import Message, unwritten
from recparam.training import Epoch, TrainingDiverged
from recparam.utils.checks import NonFiniteError
from recparam.utils.storage import replacing, write_json


def best_device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def execute(settings: Settings, run: Run, out: Path, *, report: Callable[[Epoch], None]) -> None:
    """Do one run and write its files; `result.json` comes last and says that the run is complete.

    Raises:
        TrainingDiverged: if the training turned NaN.
    """
    folder = out / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    numbers, arrays = run_arm(settings, run, folder, device=best_device(), report=report)
    named: dict[str, Any] = dict(arrays)
    with replacing(folder / "arrays.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **named)
    write_json(folder / "result.json", {**numbers, "settings": run_settings(settings, run)})


def attempt(settings: Settings, out: Path, index: int, run: Run, send: Callable[[Message], None]) -> None:
    """Do one run and tell the parent how it ends; a run that fails does not stop the others."""
    send(("start", index, None))
    try:
        execute(settings, run, out, report=lambda progress: send(("progress", index, progress)))
    except (TrainingDiverged, NonFiniteError) as error:
        send(("failed", index, str(error)))
    except OSError as error:
        send(("failed", index, f"{run}: {unwritten(error)}"))
    else:
        send(("done", index, None))
