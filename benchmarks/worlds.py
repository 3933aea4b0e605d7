"""Simulated recordings and videos with a known truth, for `recordings.py`: rows, and the truth of each.

The estimator's defaults were chosen with `arena` and no other of these.
"""

from __future__ import annotations

import numpy as np


def wander(rng: np.random.Generator, rows: int, kick: float, *, keep: float = 0.9) -> np.ndarray:
    """A smooth path in the unit square, reflected at its walls, (rows, 2)."""
    place, velocity, path = np.array([0.5, 0.5]), np.zeros(2), []
    for _ in range(rows):
        velocity = keep * velocity + kick * rng.normal(size=2)
        place = place + velocity
        out = (place < 0) | (place > 1)
        velocity, place = np.where(out, -velocity, velocity), np.clip(place, 0, 1)
        path.append(place)
    return np.array(path)


def place_cells(
    seed: int = 3, *, cells: int = 100, rows: int = 9000, peak: float = 0.9, width: float = 0.15
) -> tuple[np.ndarray, np.ndarray]:
    """Spike counts of place cells along a path in a square: square roots (rows, cells), place (rows, 2)."""
    rng = np.random.default_rng(seed)
    truth, centres = wander(rng, rows, 0.012), rng.uniform(size=(cells, 2))
    rates = peak * np.exp(-((truth[:, None] - centres) ** 2).sum(-1) / (2 * width**2))
    return np.sqrt(rng.poisson(rates).astype(np.float32)), truth


def track_cells(
    seed: int = 0, *, cells: int = 60, rows: int = 9000, peak: float = 0.9, width: float = 0.08
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of place cells along a path on a line from 0 to 1, which is the same both ways; place (rows, 1)."""
    rng = np.random.default_rng(seed)
    truth, centres = wander(rng, rows, 0.012)[:, :1], rng.uniform(size=cells)
    rates = peak * np.exp(-((truth - centres) ** 2) / (2 * width**2))
    return np.sqrt(rng.poisson(rates).astype(np.float32)), truth


def room_cells(
    seed: int = 0, *, cells: int = 200, rows: int = 9000, peak: float = 0.9, width: float = 0.22
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of place cells along a path in a cube; place (rows, 3)."""
    rng = np.random.default_rng(seed)
    truth = np.hstack([wander(rng, rows, 0.012), wander(rng, rows, 0.012)[:, :1]])
    centres = rng.uniform(size=(cells, 3))
    rates = peak * np.exp(-((truth[:, None] - centres) ** 2).sum(-1) / (2 * width**2))
    return np.sqrt(rng.poisson(rates).astype(np.float32)), truth


def head_cells(
    seed: int = 0, *, cells: int = 30, rows: int = 12000, peak: float = 0.6
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of head-direction cells of unlike width and rate, and of ten that know nothing; cosine and sine."""
    rng = np.random.default_rng(seed)
    speed, angle = 0.0, np.zeros(rows)
    for t in range(1, rows):
        speed = 0.92 * speed + 0.03 * rng.normal()
        angle[t] = angle[t - 1] + speed
    centre, sharp = rng.uniform(0, 2 * np.pi, cells), rng.uniform(1, 5, cells)
    rates = peak * rng.uniform(0.3, 1.7, cells) * np.exp(sharp * (np.cos(angle[:, None] - centre) - 1)) + 0.01
    rates = np.hstack([rates, np.full((rows, 10), 0.2)])
    return np.sqrt(rng.poisson(rates).astype(np.float32)), np.column_stack([np.cos(angle), np.sin(angle)])


def lorenz(seed: int = 0, *, cells: int = 60, rows: int = 10000) -> tuple[np.ndarray, np.ndarray]:
    """Counts of cells whose log rates are linear in a Lorenz system, as such methods are often tried on; (rows, 3)."""
    rng = np.random.default_rng(seed)
    state, path = np.array([1.0, 1.0, 25.0]), []
    for step in range(rows + 500):
        for _ in range(2):
            x, y, z = state
            state = state + 0.006 * np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])
        if step >= 500:
            path.append(state)
    truth = np.array(path)
    truth = (truth - truth.mean(0)) / truth.std(0)
    rates = np.exp(truth @ rng.normal(size=(3, cells)) * 0.5 - 1)
    return np.sqrt(rng.poisson(np.minimum(rates, 8)).astype(np.float32)), truth


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return np.mgrid[:height, :width].astype(np.float32)[0], np.mgrid[:height, :width].astype(np.float32)[1]


def disc_video(seed: int = 0, *, frames: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """A grey disc over still clutter, with noise of the camera, (frames, 60, 80) bytes; place in pixels (frames, 2)."""
    rng = np.random.default_rng(seed)
    y, x = _grid(60, 80)
    truth = wander(rng, frames, 0.02) * [60, 40] + [10, 10]
    ground = np.kron(rng.uniform(60, 160, (12, 16)), np.ones((5, 5)))
    near = np.hypot(x - truth[:, 0, None, None], y - truth[:, 1, None, None])
    cover = np.clip(5.5 - near, 0, 1)
    found = ground * (1 - cover) + 210 * cover + rng.normal(0, 6, near.shape)
    return np.clip(found, 0, 255).astype(np.uint8), truth


def cart_video(seed: int = 0, *, frames: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """A cart with a turning pole, (frames, 68, 128) bytes; place in pixels, cosine and sine (frames, 3)."""
    rng = np.random.default_rng(seed)
    y, x = _grid(68, 128)
    place = wander(rng, frames, 0.012)[:, 0] * 80 + 24
    speed, angle = 0.0, np.zeros(frames)
    for t in range(1, frames):
        speed = 0.93 * speed + 0.04 * rng.normal()
        angle[t] = angle[t - 1] + speed
    found = np.full((frames, 68, 128), 235.0)
    for t in range(frames):
        cart = np.clip(9 - abs(x - place[t]), 0, 1) * np.clip(5 - abs(y - 40), 0, 1)
        along = (x - place[t]) * np.sin(angle[t]) - (y - 38) * np.cos(angle[t])
        across = (x - place[t]) * np.cos(angle[t]) + (y - 38) * np.sin(angle[t])
        pole = np.clip(2.5 - abs(across), 0, 1) * np.clip(np.minimum(along + 1, 27 - along), 0, 1)
        found[t] = found[t] * (1 - cart) + 40 * cart
        found[t] = found[t] * (1 - pole) + 120 * pole
    found += rng.normal(0, 4, found.shape)
    return np.clip(found, 0, 255).astype(np.uint8), np.column_stack([place, np.cos(angle), np.sin(angle)])
