"""Handwritten digits of 8x8 pixels, random views of them, and an encoder of their size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from recparam.data.pairs import Transform

SIDE = 8


@dataclass(frozen=True)
class Digits:
    """Rows (N, 1, 8, 8) between 0 and 1, their labels (N,), and those that are held out.

    Labels choose and score few-shot examples; nothing is trained or chosen by them.
    """

    rows: Tensor
    labels: np.ndarray
    held_out_rows: Tensor
    held_out_labels: np.ndarray


def split_digits(seed: int, held_out: int) -> Digits:
    """The 1797 digits that come with scikit-learn, of which a random part is held out.

    Args:
        seed: Of the part.
        held_out: How many.
    """
    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    order = np.random.default_rng([seed, 1]).permutation(len(images))
    rows = torch.tensor(images[order] / 16, dtype=torch.float32).reshape(-1, 1, SIDE, SIDE)
    labels = labels[order]
    return Digits(rows[held_out:], labels[held_out:], rows[:held_out], labels[:held_out])


def moved(digits: Digits, transform: Transform, seed: int) -> Digits:
    """The same digits, each as one random view of it."""
    generator = torch.Generator().manual_seed(seed)
    rows, others = transform(digits.rows, generator), transform(digits.held_out_rows, generator)
    return replace(digits, rows=rows, held_out_rows=others)


def shifted_and_turned(rows: Tensor, generator: torch.Generator, *, shift: float, turn: float) -> Tensor:
    """Each image moved and turned at random, read bilinearly; zero outside.

    Args:
        rows: Shape (B, 1, H, W).
        generator: Of all draws.
        shift: The largest move along either axis, pixels; uniform.
        turn: The largest turn either way, degrees; uniform.
    """
    draw = 2 * torch.rand(len(rows), 3, generator=generator) - 1
    angle = draw[:, 0] * math.radians(turn)
    move = draw[:, 1:] * 2 * shift / rows.shape[-1]
    cos, sin = angle.cos(), angle.sin()
    affine = torch.stack([torch.stack([cos, -sin, move[:, 0]], -1), torch.stack([sin, cos, move[:, 1]], -1)], 1)
    grid = nn.functional.affine_grid(affine, list(rows.shape), align_corners=False)
    return nn.functional.grid_sample(rows, grid, padding_mode="zeros", align_corners=False)


def view_maker(shift: float, turn: float) -> Transform:
    """`shifted_and_turned` as `recparam.data.pairs.views` takes it."""
    return partial(shifted_and_turned, shift=shift, turn=turn)


def encoder(latent_dim: int) -> nn.Module:
    """Two convolutions that halve the sides and two linear layers, (B, 1, 8, 8) to (B, latent_dim)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * (SIDE // 4) ** 2, 128),
        nn.ReLU(),
        nn.Linear(128, latent_dim),
    )
