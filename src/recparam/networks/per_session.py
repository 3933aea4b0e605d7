"""An encoder for each session onto the same latents, where sessions have channels of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["PerSession"]


class PerSession(nn.Module):
    """Several networks, one per session, for rows that say which session they are of.

        g(x) = g_s(values),   x = (s, values, 0 ... 0)

    So R(z|x) is one recognition model of all sessions; see `recparam.data.channels.own_channels` for such rows.

    Args:
        nets: A network for each session, of outputs of one width.
        row_shapes: The shape of a row of each session.

    Raises:
        ValueError: Not as many networks as shapes.

    Example:
        >>> import torch
        >>> from recparam.networks.per_session import PerSession
        >>> net = PerSession([torch.nn.Linear(2, 3), torch.nn.Linear(4, 3)], row_shapes=[(2,), (4,)])
        >>> net(torch.tensor([[0.0, 5, 5, 0, 0], [1.0, 6, 6, 6, 6]])).shape
        torch.Size([2, 3])
    """

    def __init__(self, nets: Sequence[nn.Module], *, row_shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        if len(nets) != len(row_shapes) or not len(nets):
            raise ValueError(f"Expected a row shape for each network; got {len(nets)} and {len(row_shapes)}.")
        self.nets, self.row_shapes = nn.ModuleList(nets), [tuple(shape) for shape in row_shapes]

    def forward(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch out"]:
        """Map a batch.

        Args:
            x: Rows: the session's number, its values, and zeros up to the widest session.

        Returns:
            ``(B, out)``.

        Raises:
            ValueError: Rows of another width or session.
        """
        width = 1 + max(map(math.prod, self.row_shapes))
        if x.ndim != 2 or x.shape[1] != width:
            raise ValueError(f"Expected x of shape (B, {width}), a session and its values; got {tuple(x.shape)}.")
        parts, places = [], []
        for session in x[:, 0].unique().tolist():
            if session not in range(len(self.nets)):
                raise ValueError(f"Expected sessions from 0 to {len(self.nets) - 1} in x[:, 0]; got {session:g}.")
            rows = (x[:, 0] == session).nonzero()[:, 0]
            shape = self.row_shapes[int(session)]
            values = x[rows, 1 : 1 + math.prod(shape)]
            parts.append(self.nets[int(session)](values.reshape(-1, *shape)))
            places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]
