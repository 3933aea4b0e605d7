"""Pairs of rows at which a declared variable, such as the behaviour, is alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.neighbors import NearestNeighbors

from recparam.data.checks import without_label
from recparam.data.pairs import Pairs
from recparam.data.recording import Recording
from recparam.utils.checks import check_count, check_unmasked

_AT_ONCE = 1 << 14  # rows whose neighbours are found together
_TIE = 1e-9  # of the spread of a variable; distances that differ by less are equal


def nearest(recording: Recording, variable: Any, *, neighbours: int = 10, apart: int = 1, seed: int = 0) -> Pairs:
    """Pairs of each row and the rows at which a continuous variable is closest, found through a tree.

    Distances are Euclidean in the units of the variable: bring its columns to one scale first. Rows of other
    sessions count, as a declared variable means the same in all of them. Of rows that are equally close, as where an
    animal rests or a variable is discrete, each row draws its partners at random, so that none is the partner of many.

    Args:
        recording: The rows.
        variable: Numbers (N,) or (N, D), one row for each of the recording.
        neighbours: Partners of each row.
        apart: Rows of its own session that x' is at least away from x; 1 leaves out x itself only. In a series
            the closest rows are mostly its neighbours in time.
        seed: Decides the draws among rows that are equally close.

    Returns:
        The pairs, up to `neighbours` for each row that was observed.

    Raises:
        ValueError: A variable of another length, that is not finite or masked, or fewer rows than asked for.

    Example:
        >>> import numpy as np
        >>> from recparam.data.conditioned import nearest
        >>> from recparam.data.recording import Recording
        >>> pairs = nearest(Recording.of(np.zeros((4, 2))), [0.0, 10.0, 1.0, 12.0], neighbours=1)
        >>> pairs.second.tolist()
        [2, 3, 0, 1]
    """
    check_count("neighbours", neighbours)
    check_count("apart", apart)
    check_count("seed", seed, least=0)
    check_unmasked("variable", variable)
    values = np.asarray(variable)
    if values.ndim not in (1, 2) or len(values) != len(recording) or values.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected variable as numbers of shape ({len(recording)},) or ({len(recording)}, D), one row for each of "
            f"the recording; got {values.dtype}, {values.shape}. Use same_label for names."
        )
    rows = np.flatnonzero(recording.usable)
    values = values.reshape(len(values), -1)[rows].astype(np.float64)
    bad = rows[~np.isfinite(values).all(1)]
    if len(bad):
        raise ValueError(
            f"Expected a finite variable; got NaN or infinity in row {bad[0]}. Leave such rows out. Or hide them with "
            "mask=."
        )
    asked = neighbours + 2 * apart - 1  # as many as may be too close in time, and x itself
    if asked > len(rows):
        raise ValueError(
            f"Expected at least {asked} rows for neighbours={neighbours} and apart={apart}; got {len(rows)}. Ask for "
            "fewer."
        )
    found = rows[_closest(values, asked, np.random.default_rng(seed))]
    sessions = recording.sessions
    allowed = (np.abs(found - rows[:, None]) >= apart) | (sessions[found] != sessions[rows, None])
    allowed &= allowed.cumsum(1) <= neighbours
    how = "rows at which a variable is alike"
    return Pairs(recording, np.repeat(rows, allowed.sum(1)), found[allowed], gap=apart, how=how)


def _closest(
    values: Float[np.ndarray, "N D"], count: int, generator: np.random.Generator
) -> Int[np.ndarray, "N count"]:
    """The rows whose values are closest to each row's, itself among them, in order; at random where they are equal.

    Rows of one value follow each other in a circle of random order, which each row enters at a place of its own. Which
    of several values at one distance is first is decided by moving each row a little.
    """
    values = values - values.mean(0)  # a search by products would lose digits far from zero
    unique, which, sizes = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    members = np.lexsort([generator.permutation(len(values)), which.reshape(-1)])  # value by value
    starts = np.cumsum(sizes) - sizes
    moved = values + _TIE * np.ptp(values, axis=0) * generator.uniform(-1, 1, values.shape)
    entry = generator.integers(len(values), size=(len(values), 1))
    exact = "kd_tree" if values.shape[1] < 16 else "auto"
    near = NearestNeighbors(n_neighbors=min(count, len(unique)), algorithm=exact).fit(unique)
    found = np.empty((len(values), count), dtype=np.int64)
    for start in range(0, len(values), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        groups = near.kneighbors(moved[part], return_distance=False)
        before = np.cumsum(sizes[groups], axis=1) - sizes[groups]
        taken = np.clip(count - before, 0, sizes[groups])  # of each value, until there are enough
        group = np.repeat(groups.ravel(), taken.ravel()).reshape(-1, count)
        place = np.arange(count) - np.repeat(before.ravel(), taken.ravel()).reshape(-1, count)
        found[part] = members[starts[group] + (entry[part] + place) % sizes[group]]
    return found


def same_label(recording: Recording, labels: Any, *, neighbours: int = 10, seed: int) -> Pairs:
    """Pairs of each row and randomly drawn other rows with the same label.

    Args:
        recording: The rows.
        labels: Names or numbers (N,), one for each row. A row whose label is missing (NaN, None, NaT, NA of pandas,
            an empty text, or masked) is in no pair.
        neighbours: Draws for each row; equal ones count once.
        seed: Decides the draws.

    Returns:
        The pairs; a row whose label no other row has is in none.

    Raises:
        ValueError: Labels of another length, or no label that two rows have.

    Example:
        >>> import numpy as np
        >>> from recparam.data.conditioned import same_label
        >>> from recparam.data.recording import Recording
        >>> pairs = same_label(Recording.of(np.zeros((5, 2))), ["run", "rest", "run", "rest", "groom"], seed=0)
        >>> list(zip(pairs.first.tolist(), pairs.second.tolist()))
        [(0, 2), (1, 3), (2, 0), (3, 1)]
    """
    check_count("neighbours", neighbours)
    check_count("seed", seed, least=0)
    names = np.asarray(labels)
    if names.shape != (len(recording),):
        raise ValueError(f"Expected labels of shape ({len(recording)},), one for each row; got {names.shape}.")
    rows = np.flatnonzero(recording.usable & ~without_label(labels))
    generator = np.random.default_rng(seed)
    codes = np.unique(np.array(names[rows].tolist()) if names.dtype == object else names[rows], return_inverse=True)[1]
    drawn = [np.zeros((0, 2), dtype=np.int64)]
    for group in np.split(rows[np.argsort(codes, kind="stable")], np.cumsum(np.bincount(codes))[:-1]):
        if len(group) > 1:
            # Some places further in a circle: any other row, each as likely.
            steps = generator.integers(1, len(group), size=(len(group), neighbours))
            partners = group[(np.arange(len(group))[:, None] + steps) % len(group)]
            drawn.append(np.stack([np.repeat(group, neighbours), partners.ravel()], axis=1))
    pairs = np.unique(np.concatenate(drawn), axis=0)
    if not len(pairs):
        raise ValueError("Expected labels that several rows have; got a different one for each row that has one.")
    return Pairs(recording, pairs[:, 0], pairs[:, 1], gap=1)
