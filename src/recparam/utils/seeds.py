"""Random numbers from a seed that leave the caller's as they were."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch


def forked() -> AbstractContextManager[None]:
    """Within it torch's own generators are free to be seeded and drawn from; afterwards they are where they were."""
    return torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else [])


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Within it torch's own generators start from a seed; afterwards they are where they were.

    A GPU that is not in use yet is left alone: what is drawn here is drawn on the CPU.
    """
    with forked():
        torch.default_generator.manual_seed(int(seed))
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(int(seed))
        yield


def mixed(seed: int, number: int) -> int:
    """A seed of its own for each number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
