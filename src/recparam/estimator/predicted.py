"""How well latents predict what their encoder was not shown: a score that any encoder, window and lag share.

A bound cannot compare these. x' at another lag, or a window, is another observation, and a longer window is easier to
tell from others. So all are scored on the same targets: of vectors, half of the columns of a row, from the other half
of the rows of its window (co-smoothing); of frames, the next frame and the one before. A window that is too short is
noisy, and one that is too long blurs; neither predicts the row in its middle well. Noise that columns share would be
predicted, too.

The prediction is the model's own, E[x'|z] = sum_k P(k|z) x'_k over training rows k whose latents are near z; here the
nearest ones have equal weights. Latents that fold distant states together predict the mean of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recparam.data.pairs import as_tensor
from recparam.data.recording import Recording
from recparam.data.segments import segments
from recparam.estimator.encoding import latents_of, parameters_of
from recparam.estimator.names import recognition
from recparam.model import RPM
from recparam.networks import Pooled

_FITTED, _HELD_OUT = 4000, 1000  # rows that are used
_NEIGHBOURS = 20
_SIDE = 32  # pixels of the longer side of frames as targets
COLUMNS = 4  # at least, to leave half of them out


class Targets:
    """Rows to predict, and the rows from whose latents they are.

    Args:
        recording: Single rows.
        fitted: Which rows all models were trained on, (N,).
        held_out: Which rows none was, (N,).
    """

    def __init__(self, recording: Recording, fitted: np.ndarray, held_out: np.ndarray) -> None:
        self._recording, self._segment = recording, segments(recording, None)[0]
        self._fitted, self._held_out = (part & recording.usable for part in (fitted, held_out))

    def share(self, model: RPM, rows: Recording) -> float:
        """The share of the variance of the targets that latents predict.

        Args:
            model: Encodes them.
            rows: The recording as the model reads it.

        Returns:
            At most 1; 0 for the mean of the training rows, and below for less than that; NaN for too few rows.
        """
        left, over = self.squares(model, rows)
        return 1 - float(left.sum()) / float(over.sum()) if over.any() else float("nan")

    def squares(self, model: RPM, rows: Recording) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
        """What is left of the squares of each target and what they were, in order of time; the same targets for all.

        Args:
            model: As of `share`.
            rows: As of `share`.
        """
        columns = len(self._recording.shape) == 2 and self._recording.shape[1] >= COLUMNS
        left: list[np.ndarray] = []
        over: list[np.ndarray] = []
        for z_near, told, z, target in (self._columns if columns else self._neighbours)(model, rows):
            z_near, z = (recognition(model.prior, torch.nn.Identity())(part).mean for part in (z_near, z))
            mean, scale = told.mean(0), told.std(0) if told.ndim == 2 else told.std()
            told, target = ((part - mean) / torch.where(scale > 0, scale, 1.0) for part in (told, target))
            nearest = torch.cdist(z, z_near).topk(max(1, min(_NEIGHBOURS, len(z_near) // 10)), largest=False).indices
            found = torch.stack([told[neighbours].mean(0) for neighbours in nearest])
            left.append((target - found).square().flatten(1).sum(1).double().numpy())
            over.append(target.square().flatten(1).sum(1).double().numpy())
        if columns:  # both halves of them are of the same rows
            return left[0] + left[1], over[0] + over[1]
        return np.concatenate([np.zeros(0), *left]), np.concatenate([np.zeros(0), *over])

    def _columns(self, model: RPM, rows: Recording) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Training latents and what was left out of their rows, and likewise the held-out ones."""
        near, far = (
            _at_most(np.flatnonzero(part & rows.usable), most)
            for part, most in ((self._fitted, _FITTED), (self._held_out, _HELD_OUT))
        )
        width = self._recording.shape[1]
        shuffled = torch.from_numpy(np.random.default_rng(0).permutation(width))
        values = partial(_values, double=rows.double)
        mean = values(self._recording, near).mean(0)
        for shown in (shuffled[: width // 2], shuffled[width // 2 :]):
            weight = torch.zeros(width).index_fill_(0, shown, width / len(shown))  # as dropout does
            hidden = (weight == 0).nonzero()[:, 0]
            z_near, z = (latents_of(model, mean + (values(rows, part) - mean) * weight).cpu() for part in (near, far))
            told, target = (values(self._recording, part)[:, hidden] for part in (near, far))
            yield z_near, told, z, target

    def _neighbours(self, model: RPM, rows: Recording) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Training latents and the rows after or before those that they are of, and likewise the held-out ones."""
        for step in (1 + rows.overlap // 2, -1 - rows.overlap // 2):
            near, far = (
                _at_most(self._anchors(part & rows.usable, part, step), most)
                for part, most in ((self._fitted, _FITTED), (self._held_out, _HELD_OUT))
            )
            if len(near) and len(far):
                encoded = [parameters_of(model, rows, part).cpu() for part in (near, far)]
                told, target = (self._values(part + step) for part in (near, far))
                yield encoded[0], told, encoded[1], target

    def _anchors(self, anchors: np.ndarray, targets: np.ndarray, step: int) -> np.ndarray:
        """Rows of which the one so many rows later is a target of the same segment."""
        rows = np.flatnonzero(anchors)
        rows = rows[(rows + step >= 0) & (rows + step < len(anchors))]
        return rows[targets[rows + step] & (self._segment[rows + step] == self._segment[rows])]

    def _values(self, rows: np.ndarray) -> Tensor:
        values = as_tensor(self._recording[rows]).float()
        if values.ndim < 3:
            return values
        factor = -(-max(values.shape[1:3]) // _SIDE)
        sides = (-(-values.shape[1] // factor), -(-values.shape[2] // factor))
        return Pooled(torch.nn.Identity(), factor=factor, shape=sides).pool(values)


def _values(recording: Recording, rows: np.ndarray, *, double: bool) -> Tensor:
    return as_tensor(recording[rows], double=double)


def _at_most(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, evenly spaced."""
    return rows[:: max(1, -(-len(rows) // most))]
