"""How sure a latent is that is a point given its row: a jackknife over the columns of the row.

Under an InfoNCE prior R(z|x) is a point, so the model has no spread of its own. What makes z uncertain is that x is
noisy and that its columns are a sample of what could have been recorded. The jackknife (Tukey 1958) asks how much z
changes where a part of the columns is not seen: with G parts, each put at its mean in turn,

    var = (G - 1)/G sum_g (z_g - mean_g z_g)^2.

It needs columns whose noise is independent, such as neurons. It tends to err upwards (Efron and Stein, 1981), as what a
part tells of the state counts like its noise. It does not hold the error that all encoders of this kind share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recparam.data.recording import Recording
from recparam.data.windows import Windowed
from recparam.estimator.encoding import network, parameters_of
from recparam.networks import Standardised

PARTS = 20
_COLUMNS = 2  # at least


def jackknife(estimator: Any, recording: Recording, rows: np.ndarray, index: int) -> Tensor:
    """The standard deviation of latents by a jackknife over columns.

    Args:
        estimator: A fitted one.
        recording: Vectors, or windows of them, as its encoder reads them.
        rows: Which rows.
        index: Of the observation, from zero.

    Returns:
        (rows, latent_dim), in the units of the latents.

    Raises:
        ValueError: Rows that are no vectors, have fewer than two columns, or an encoder that holds no means.
    """
    head, model = estimator._head, estimator.model_
    net, width = network(model, index), recording.shape[-1]
    vectors = len(recording.shape) == 2 + isinstance(recording, Windowed) and recording.row_shapes is None
    if not vectors or width < _COLUMNS or not isinstance(net, Standardised):
        raise ValueError(
            f"Expected vectors of {_COLUMNS} columns or more, and an encoder with their means, for return_std=True "
            f"where latents are points; got rows of shape {recording.shape[1:]} and {type(net).__name__}. Use "
            "prior='joint-gaussian', or leave return_std out."
        )
    shuffled = np.random.default_rng(0).permutation(width)  # neighbouring columns may be alike
    parts = np.array_split(shuffled, min(PARTS, width))
    mean = net.mean.cpu()
    total = square = torch.zeros(())
    for count, part in enumerate(parts, start=1):
        hidden = torch.zeros(width, dtype=torch.bool).index_fill_(0, torch.from_numpy(part), True)

        def unseen(x: Tensor, hidden: Tensor = hidden) -> Tensor:
            return torch.where(hidden, mean.to(x.dtype), x)

        z = head.recognition(parameters_of(model, recording, rows, index=index, change=unseen)).mean.double()
        step = z - total
        total = total + step / count
        square = square + step * (z - total)  # Welford's sum of squares about the mean
    return (square * (len(parts) - 1) / len(parts)).sqrt().float()
