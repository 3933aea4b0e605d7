"""The whole experiment: checks, processes, progress, results, figures and report."""

import os
import time
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch.nn.functional import mse_loss

from recparam.experiments.balls.figure import draw_all
from recparam.experiments.balls.models import initial_encoder
from recparam.experiments.balls.progress import Progress, duration
from recparam.experiments.balls.results import collect
from recparam.experiments.balls.settings import CHOOSING_SEED_OFFSET, TEST_SEED_OFFSET, TRAINED_ARMS, Run, Settings
from recparam.experiments.balls.videos import moving_balls
from recparam.experiments.balls.work import attempt, best_device, finished
from recparam.experiments.folder import prepare_folder
from recparam.experiments.outcome import Outcome
from recparam.experiments.processes import Message, check_jobs, in_processes, threads_of
from recparam.utils.storage import write_json


def run_experiment(
    settings: Settings, out: Path, *, jobs: int | None = None, console: Console | None = None
) -> Outcome[Run]:
    """Run what is missing of the experiment in a folder, then write its results, figures and report.

    Args:
        settings: what to run.
        out: output folder; made if missing. Finished runs in it are kept, interrupted ones go on.
        jobs: number of parallel processes; None for one per core, or one on a GPU; 0 for this process.
        console: where progress is printed.

    Returns:
        The results, the files and the runs that failed.

    Raises:
        ValueError: if the settings or the folder cannot be used; nothing was written.
        KeyboardInterrupt: on Ctrl-C, after the processes have stopped; the same call goes on from there.
    """
    check_jobs(jobs)
    console = console or Console()
    # The generator is the judge of what fits a frame; two frames of each video ask it.
    for run in {(run.video, run.seed): run for run in settings.runs()}.values():
        for seed in (run.seed, run.seed + TEST_SEED_OFFSET, run.seed + CHOOSING_SEED_OFFSET):
            moving_balls(2, size=settings.size, diameter=settings.diameter, background=run.video, seed=seed)
    prepare_folder(settings.identity(), out)

    begin = time.perf_counter()
    runs = settings.runs()
    waiting = [index for index, run in enumerate(runs) if finished(settings, run, out) is None]
    kept = len(runs) - len(waiting)
    device = best_device()
    if jobs is None:
        jobs = 1 if device.type == "cuda" else os.cpu_count() or 1
    jobs = min(jobs, max(1, len(waiting)))
    console.print(f"Moving balls, {settings.label}", highlight=False)
    if kept:
        console.print(
            f"{kept} of {len(runs)} runs are finished in {out} and are kept.", highlight=False, soft_wrap=True
        )
    trained = [runs[index] for index in waiting if runs[index].arm in TRAINED_ARMS]
    if trained:
        seconds = estimate_seconds(settings, trained, max(jobs, 1), device)
        console.print(
            f"{len(waiting)} runs on {_devices(device, jobs)}: about {duration(seconds)}. "
            "Each epoch is saved; after an interruption the same command goes on.",
            highlight=False,
            soft_wrap=True,
        )
    failed: dict[Run, str] = {}
    with Progress(console, settings, runs) as progress:

        def handle(message: Message) -> None:
            kind, index, content = message
            progress.show(kind, index, content)
            if kind == "failed":
                failed[runs[index]] = content
            elif kind == "crashed":
                raise RuntimeError(f"{runs[index]} stopped on an unexpected error.\n{content}")

        if jobs == 0:
            for index in waiting:
                attempt(settings, out, index, runs[index], handle)
        elif waiting:
            each = partial(attempt, settings, out)
            in_processes(each, {index: runs[index] for index in waiting}, jobs=jobs, handle=handle)

    results = collect(settings, out, failed, seconds=time.perf_counter() - begin)
    write_json(out / "results.json", results)
    files = [out / "results.json", *draw_all(settings, results, out)]
    return Outcome(results, files, failed)


def estimate_seconds(settings: Settings, trained: list[Run], jobs: int, device: torch.device) -> float:
    """Time a few steps of the encoder and return how long the runs will take, in seconds."""
    encoder = initial_encoder(settings, 0).to(device)
    shape = (2 * settings.batch_size, settings.size, settings.size, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    target = torch.zeros(len(frames), 6, device=device)
    threads = torch.get_num_threads()
    # Several processes leave each one thread; one process has them all.
    torch.set_num_threads(threads_of(jobs))
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


def _devices(device: torch.device, jobs: int) -> str:
    where = "the GPU" if device.type == "cuda" else "the CPU"
    return f"{where} in {jobs} parallel processes" if jobs > 1 else where
