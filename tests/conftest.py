"""Determinism: one thread and a fixed seed for every test."""

import random

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every global generator; tests that need the number may ask for it."""
    value = 0
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    """Return a seeded generator for functions that take one."""
    return torch.Generator().manual_seed(seed)
