"""The whole experiment: checks, processes, progress, results, figures and report."""

import json
import multiprocessing
import os
import queue
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.nn.functional import mse_loss

from recparam.data.balls import moving_balls
from recparam.experiments.balls.arms import initial_encoder
from recparam.experiments.balls.figure import draw_all
from recparam.experiments.balls.progress import Progress, duration
from recparam.experiments.balls.results import collect
from recparam.experiments.balls.settings import TEST_SEED_OFFSET, TRAINED_ARMS, Run, Settings
from recparam.experiments.balls.work import Message, attempt, best_device, finished, work
from recparam.storage import write_json


class OutputFolderError(ValueError):
    """The output folder cannot be used as asked; nothing in it was touched."""


@dataclass
class Outcome:
    """What an experiment leaves behind.

    Args:
        results: content of `results.json`.
        files: what was written for people to look at.
        failed: message of every run that did not finish.
    """

    results: dict[str, Any]
    files: list[Path]
    failed: dict[Run, str] = field(default_factory=dict)


def run_experiment(
    settings: Settings, out: Path, *, jobs: int | None = None, console: Console | None = None
) -> Outcome:
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
    if jobs is not None and jobs < 0:
        raise ValueError(
            f"jobs must be at least 1 (or 0 for this process alone); got {jobs}. It is a number of processes."
        )
    console = console or Console()
    # The generator is the judge of what fits a frame; two frames of each video ask it.
    for run in {(run.video, run.seed): run for run in settings.runs()}.values():
        for seed in (run.seed, run.seed + TEST_SEED_OFFSET):
            moving_balls(2, size=settings.size, diameter=settings.diameter, background=run.video, seed=seed)
    prepare_folder(settings, out)

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
                attempt(settings, index, runs[index], out, handle)
        elif waiting:
            _in_processes(settings, runs, waiting, out, jobs, handle)

    results = collect(settings, out, failed, seconds=time.perf_counter() - begin)
    write_json(out / "results.json", results)
    files = [out / "results.json", *draw_all(settings, results, out)]
    return Outcome(results, files, failed)


def prepare_folder(settings: Settings, out: Path) -> None:
    """Make the output folder, or check that it holds this experiment.

    Raises:
        OutputFolderError: if it is a file, is not writable, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise OutputFolderError(f"out must be a folder; {out} is a file. Choose another --out.")
    stored = out / "settings.json"
    wanted = settings.identity()
    if out.is_dir() and not stored.is_file() and any(out.iterdir()):
        raise OutputFolderError(
            f"out must be new, empty or a folder of this experiment; {out} holds other files. Choose another --out."
        )
    if stored.is_file():
        try:
            found = json.loads(stored.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputFolderError(f"{stored} cannot be read ({error}). Choose another --out.") from error
        differing = _differences(found, wanted)
        if differing:
            raise OutputFolderError(
                f"out holds a run with other settings ({'; '.join(differing)}): {out}. "
                "Choose another --out, or give the settings it was made with."
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputFolderError(
            f"out must be writable; {out} is not ({error.strerror}). Choose another --out, or change its permissions."
        ) from error
    if not stored.is_file():
        write_json(stored, wanted)


def _differences(found: Any, wanted: dict[str, Any]) -> list[str]:
    if not isinstance(found, dict) or found.get("experiment") != wanted["experiment"]:
        return ["it is not a moving-balls experiment"]
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    return [f"{key} {found.get(key)} there, {wanted[key]} asked" for key in keys]


def estimate_seconds(settings: Settings, trained: list[Run], jobs: int, device: torch.device) -> float:
    """Time a few steps of the encoder and return how long the runs will take, in seconds."""
    encoder = initial_encoder(settings, 0).to(device)
    shape = (2 * settings.batch_size, settings.size, settings.size, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    target = torch.zeros(len(frames), 6, device=device)
    threads = torch.get_num_threads()
    # Several processes leave each one thread; one process has them all.
    torch.set_num_threads(_threads(jobs))
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
    steps = settings.epochs * -(-(settings.frames - 1) // settings.batch_size)
    rounds = -(-len(trained) // jobs)
    return rounds * steps * step


def _threads(jobs: int) -> int:
    return max(1, (os.cpu_count() or 1) // max(jobs, 1))


def _devices(device: torch.device, jobs: int) -> str:
    where = "the GPU" if device.type == "cuda" else "the CPU"
    return f"{where} in {jobs} parallel processes" if jobs > 1 else where


def _in_processes(
    settings: Settings,
    runs: list[Run],
    waiting: list[int],
    out: Path,
    jobs: int,
    handle: Callable[[Message], None],
) -> None:
    """Hand the runs to processes and pass on what they tell, until every run has ended."""
    # Spawned, not forked: a forked process may inherit held locks of torch's thread pools.
    context = multiprocessing.get_context("spawn")
    tasks, messages = context.Queue(), context.Queue()
    for index in waiting:
        tasks.put((index, runs[index]))
    for _ in range(jobs):
        tasks.put(None)
    workers = [
        context.Process(target=work, args=(settings, str(out), _threads(jobs), tasks, messages), daemon=True)
        for _ in range(jobs)
    ]
    open_runs = set(waiting)
    with _stopping(workers):
        for worker in workers:
            worker.start()
        while open_runs:
            try:
                message: Message = messages.get(timeout=0.5)
            except queue.Empty:
                if any(worker.is_alive() for worker in workers):
                    continue
                try:
                    # The last words of a process may still be under way when it has ended.
                    message = messages.get(timeout=2.0)
                except queue.Empty:
                    codes = sorted({worker.exitcode for worker in workers if worker.exitcode is not None})
                    for index in sorted(open_runs):
                        handle(
                            (
                                "failed",
                                index,
                                f"its process ended early (exit codes {codes}); is memory short?",
                            )
                        )
                    return
            if message[0] in ("done", "failed", "crashed"):
                open_runs.discard(message[1])
            handle(message)
        for worker in workers:
            worker.join()


@contextmanager
def _stopping(workers: list[Any]) -> Iterator[None]:
    """Leave no process behind, however the block ends."""
    try:
        yield
    finally:
        for worker in workers:
            if worker.pid is not None and worker.is_alive():
                # Files are written whole or not at all, so that ending a process at any moment is safe.
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join(5)
                if worker.is_alive():
                    worker.kill()
                    worker.join()
