"""Random numbers from a seed that leave the caller's as they were."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Within it torch's own generators start from a seed; afterwards they are where they were.

    A GPU that is not in use yet is left alone: what is drawn here is drawn on the CPU.
    """
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(int(seed))
        if gpus:
            torch.cuda.manual_seed_all(int(seed))
        yield
