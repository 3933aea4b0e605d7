"""The whole experiment: checks, runs, results, figures and report."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import mse_loss

from recparam.experiments.balls.arms import run_arm
from recparam.experiments.balls.figure import draw_all
from recparam.experiments.balls.models import initial_encoder
from recparam.experiments.balls.results import collect, finished, run_settings
from recparam.experiments.balls.settings import CHOOSING_SEED_OFFSET, TEST_SEED_OFFSET, TRAINED_ARMS, Run, Settings
from recparam.experiments.balls.videos import moving_balls
from recparam.experiments.folder import prepare_folder
from recparam.experiments.outcome import Outcome
from recparam.experiments.processes import check_jobs, measure_cells, missing, tell
from recparam.training import Epoch
from recparam.utils.storage import replacing, write_json


def run_experiment(
    settings: Settings, out: Path, *, jobs: int | None = None, say: Callable[[str], None] = tell
) -> Outcome[Run]:
    """Run what is missing of the experiment in a folder, then write its results, figures and report.

    Args:
        settings: what to run.
        out: output folder; made if missing. Finished runs in it are kept, interrupted ones resume.
        jobs: number of parallel processes, each with one thread; None for one per core, or one on a GPU; 0 or 1 for
            this process alone.
        say: takes a line for people; picklable, since parallel processes print their epochs by themselves.

    Returns:
        The results, the files and the runs that failed.

    Raises:
        ValueError: if the settings or the folder cannot be used; nothing was written.
        KeyboardInterrupt: on Ctrl-C, after the processes have ended; the same call resumes.
    """
    check_jobs(jobs)
    # The generator is the judge of what fits a frame; two frames of each video ask it.
    for run in {(run.video, run.seed): run for run in settings.runs()}.values():
        for seed in (run.seed, run.seed + TEST_SEED_OFFSET, run.seed + CHOOSING_SEED_OFFSET):
            moving_balls(2, size=settings.size, diameter=settings.diameter, background=run.video, seed=seed)
    prepare_folder(settings.identity(), out)

    begin = time.perf_counter()
    say(f"Moving balls, {settings.label}")
    runs = missing(settings.runs(), partial(finished, settings, out=out), out, say)
    device = best_device()
    if jobs is None:
        jobs = 1 if device.type == "cuda" else os.cpu_count() or 1
    jobs = max(1, min(jobs, len(runs)))
    trained = [run for run in runs if run.arm in TRAINED_ARMS]
    if trained:
        where = ("the GPU" if device.type == "cuda" else "the CPU") + (f" in {jobs} processes" if jobs > 1 else "")
        say(
            f"{len(runs)} runs on {where}: about {_duration(estimate_seconds(settings, trained, jobs, device))}. "
            "An interrupted run resumes when you repeat the command: each epoch is saved."
        )
    failed = measure_cells(partial(execute, settings, out, say=say), runs, jobs=jobs, say=say)
    results = collect(settings, out, failed, seconds=time.perf_counter() - begin)
    write_json(out / "results.json", results)
    return Outcome(results, [out / "results.json", *draw_all(settings, results, out)], failed)


def execute(settings: Settings, out: Path, run: Run, *, say: Callable[[str], None] = tell) -> str:
    """Do one run and write its files; `result.json` comes last and says that the run is complete.

    Returns:
        How its training ended, for people.

    Raises:
        TrainingDiverged: if the training turned NaN.
        NonFiniteError: if the trained encoder's latents are not finite.
    """
    folder = out / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    state = ""

    def report(epoch: Epoch) -> None:
        nonlocal state
        state = _state(run, epoch)
        say(f"{run}: epoch {epoch['epoch']:>3} of {settings.epochs_of(run.arm)}, {state}")

    numbers, arrays = run_arm(settings, run, folder, device=best_device(), report=report)
    named: dict[str, Any] = dict(arrays)
    with replacing(folder / "arrays.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **named)
    write_json(folder / "result.json", {**numbers, "settings": run_settings(settings, run)})
    return state or f"{numbers['seconds']:.0f} s"


def best_device() -> torch.device:
    """Return the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def estimate_seconds(settings: Settings, trained: list[Run], jobs: int, device: torch.device) -> float:
    """Time a few steps of the encoder on one thread and return how long the runs will take, in seconds."""
    encoder = initial_encoder(settings, 0).to(device)
    shape = (2 * settings.batch_size, settings.size, settings.size, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    target = torch.zeros(len(frames), 6, device=device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: list[float] = []
    try:
        for _ in range(4):
            begin = time.perf_counter()
            mse_loss(encoder(frames), target).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    # The first step also sets up memory; the quickest of the others is the least disturbed.
    step = min(times[1:])
    steps = -(-(settings.frames - 1) // settings.batch_size)
    epochs = [settings.work_of(run.arm) for run in trained]
    return max(sum(epochs) / jobs, *epochs) * steps * step


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _state(run: Run, epoch: Epoch) -> str:
    """The bound and its ceiling after an epoch, or the supervised loss."""
    bound, ceiling = epoch["bound_nats"], epoch["ceiling_nats"]
    assert bound is not None
    if run.arm == "supervised":
        return f"squared error {-bound:.2f} px^2"
    return f"bound {bound:.3f} nats" + ("" if ceiling is None else f", ceiling {ceiling:.3f}")
