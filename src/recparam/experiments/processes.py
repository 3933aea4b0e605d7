"""Independent runs in parallel processes, which tell the parent how they go."""

import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any

import torch

Message = tuple[str, int, Any]
"""What a process tells the parent: kind, index of the run, and the kind's content."""

Send = Callable[[Message], None]


def in_processes(
    attempt: Callable[[int, Any, Send], None], runs: Mapping[int, Any], *, jobs: int, handle: Send
) -> None:
    """Hand runs to processes and pass on what they tell, until every run has ended.

    Args:
        attempt: Does one run of an index, and ends with the message "done" or "failed"; picklable.
        runs: By index.
        jobs: Number of processes.
        handle: Called with each message. "crashed" tells of an exception that `attempt` did not expect.
    """
    # Spawned, not forked: a forked process may inherit held locks of torch's thread pools.
    context = multiprocessing.get_context("spawn")
    tasks, messages = context.Queue(), context.Queue()
    for task in runs.items():
        tasks.put(task)
    for _ in range(jobs):
        tasks.put(None)
    workers = [
        context.Process(target=_work, args=(attempt, threads_of(jobs), tasks, messages), daemon=True)
        for _ in range(jobs)
    ]
    waiting = set(runs)
    with _stopping(workers):
        for worker in workers:
            worker.start()
        while waiting:
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
                    for index in sorted(waiting):
                        handle(("failed", index, f"its process ended early (exit codes {codes}); is memory short?"))
                    return
            if message[0] in ("done", "failed", "crashed"):
                waiting.discard(message[1])
            handle(message)
        for worker in workers:
            worker.join()


def check_jobs(jobs: int | None) -> None:
    """Refuse a negative number of processes.

    Raises:
        ValueError: It is one.
    """
    if jobs is not None and jobs < 0:
        raise ValueError(
            f"jobs must be at least 1 (or 0 for this process alone); got {jobs}. It is a number of processes."
        )


def unwritten(error: OSError) -> str:
    """Say of a run that its files cannot be used, and what to do."""
    return f"could not be written or read: {error}. Free space or fix access, run again."


def threads_of(jobs: int) -> int:
    """Threads of each of so many processes."""
    return max(1, (os.cpu_count() or 1) // max(jobs, 1))


def _work(
    attempt: Callable[[int, Any, Send], None],
    threads: int,
    tasks: "Queue[tuple[int, Any] | None]",
    messages: "Queue[Message]",
) -> None:
    """Body of a process: take runs from the queue until it is empty.

    The parent alone handles Ctrl-C, which a terminal sends to all processes at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(threads)
    while (task := tasks.get()) is not None:
        index, run = task
        try:
            attempt(index, run, messages.put)
        except Exception as error:  # a defect: the parent reports it with its run
            messages.put(("crashed", index, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


def _end_with_parent(parent: int) -> None:
    """End this process when its parent was killed: an orphan would train for hours for nobody.

    Files are written whole or not at all, so that any moment will do.
    """
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


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
