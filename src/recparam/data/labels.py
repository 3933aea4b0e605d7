"""Who the rows of a batch, a bank or a data set are: identity, session and time of each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recparam.utils.checks import check_finite, check_tensor, is_whole


class Labels:
    """Who each of N rows is.

    Args:
        identities: Which observation a row is, whole numbers (N,). Rows of one identity are one observation:
            where a row's own latents are left out, so are those of the same identity. None: all differ.
        sessions: The recording a row comes from, whole numbers (N,); None: one for all.
        times: When it was observed, (N,), in the unit of `exclude_within`, such as seconds; None: unknown.

    Raises:
        ValueError: No label is given, or a label of another type or length, or times that are not finite.
    """

    def __init__(
        self, *, identities: Tensor | None = None, sessions: Tensor | None = None, times: Tensor | None = None
    ) -> None:
        options = {"identities": identities, "sessions": sessions, "times": times}
        known = {name: value for name, value in options.items() if value is not None}
        if not known:
            raise ValueError("Expected identities=, sessions= or times=; got none of them.")
        for name, value in known.items():
            check_tensor(name, value)
            if value.ndim != 1 or (name != "times" and not is_whole(value)):
                kind = "numbers" if name == "times" else "whole numbers"
                raise ValueError(f"Expected {name} as {kind} of shape (N,); got {value.dtype}, {tuple(value.shape)}.")
        sizes = {name: len(value) for name, value in known.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Expected labels of one length; got {sizes}.")
        # Differences of small unsigned whole numbers would wrap.
        times = times if times is None or times.is_floating_point() else times.to(torch.float64)
        self.identities, self.sessions, self.times = identities, sessions, times
        if times is not None:
            check_finite("times", times)

    def __len__(self) -> int:
        return len(next(value for value in (self.identities, self.sessions, self.times) if value is not None))

    def map(self, function: Callable[[Tensor], Tensor]) -> Labels:
        """The labels with a function of tensors, such as a choice of rows, applied to each."""
        parts = {"identities": self.identities, "sessions": self.sessions, "times": self.times}
        return Labels(**{name: None if part is None else function(part) for name, part in parts.items()})
