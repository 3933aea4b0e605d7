"""Do several runs, or several sessions, agree on the latents?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from recparam.evaluation.arrays import Array, as_array, as_matrix, constant_columns
from recparam.evaluation.decoding import LinearDecoder, r2
from recparam.utils.checks import check_count


class Consistency(NamedTuple):
    """How well each run's latents are a linear function of each other's.

    Args:
        names: Of the K runs.
        r2: Shape (K, K): of row i, the latents of run j decoded from those of run i; one on the diagonal.
        chance: Shape (K, K): the mean of `r2` for latents that have nothing to do with each other, D_i / (rows - 1) for
            Gaussian rows that are independent; more for rows of a series.
        mean: Mean of `r2` off the diagonal.
        rows: What was compared: rows, or values of the labels that all runs have.
    """

    names: tuple[str, ...]
    r2: Float[np.ndarray, "K K"]
    chance: Float[np.ndarray, "K K"]
    mean: float
    rows: int


def consistency(
    latents: Mapping[str, ArrayLike] | Sequence[ArrayLike] | Array,
    *,
    labels: Mapping[str, ArrayLike] | Sequence[ArrayLike] | Array | None = None,
    bins: int | None = 100,
) -> Consistency:
    """R^2 of linear maps between the latents of every two runs, in both directions.

        r2[i, j] = 1 - sum_n |z_j,n - (A z_i,n + b)|^2 / sum_n |z_j,n - mean z_j|^2    per latent of j, then their mean

    with A, b by least squares on the same rows, so that what a linear map cannot undo is what counts. Runs over the
    same rows are compared row by row. Sessions have no rows in common: with `labels`, a continuous variable of each row
    such as a position, they are compared by the mean latents at each of its values. Equal bins then cover the range
    that all sessions share, and a bin that some session never visits is left out. Being means, aligned latents agree
    better than rows do.

    Args:
        latents: Of each run, (N, D); K >= 2 of them, named by a dictionary or numbered by their place. D may differ.
        labels: For each run, the variable of each of its rows, (N,), under the same names or in the same order. None:
            row n is the same observation in all runs.
        bins: Bins of the variable; None: equal labels are the same value, and nothing is binned.

    Returns:
        The matrix with its names, and what chance would give.

    Raises:
        ValueError: Fewer than two runs, other rows or names, latents that are constant (a collapsed run agrees with
            everything), too few rows in common for a fit to say anything.

    References:
        S. Schneider, J. H. Lee, M. W. Mathis (2023), Learnable latent embeddings for joint behavioural and neural
        analysis: consistency across runs, animals and sessions. There bins cover the range of all labels together, and
        an empty bin takes what a neighbour has; here it is left out.

    Example:
        >>> import numpy as np
        >>> z, noise = np.random.default_rng(0).normal(size=(2, 200, 2))
        >>> turned = z @ np.array([[0.6, -0.8], [0.8, 0.6]])
        >>> consistency({"seed 0": z, "seed 1": turned, "noise": noise}).r2.round(1)
        array([[1., 1., 0.],
               [1., 1., 0.],
               [0., 0., 1.]])
    """
    names, runs = _named(latents)
    if len(runs) < 2:
        raise ValueError(f"Expected latents of at least 2 runs to compare; got {len(runs)}.")
    z = [as_matrix(f"latents of {name}", run) for name, run in zip(names, runs, strict=True)]
    if labels is None:
        if len({len(run) for run in z}) > 1:
            raise ValueError(
                f"Expected latents over the same rows; got {[len(run) for run in z]} rows. Say with labels= which rows "
                "belong together."
            )
    else:
        z = _aligned(names, z, *_named(labels), bins=bins)
    rows, widest = len(z[0]), max(run.shape[1] for run in z)
    if rows < widest + 2:
        raise ValueError(
            f"Expected at least {widest + 2} {'rows' if labels is None else 'values of the labels in common'} for "
            f"{widest} latent(s); got {rows}. With fewer, a linear map fits anything."
        )
    for name, run in zip(names, z, strict=True):
        constant = np.flatnonzero(constant_columns(run))
        if len(constant):
            raise ValueError(
                f"Expected latents that vary; got constant ones in {name}: column {constant[0]}. It has collapsed, and "
                "would agree with every other run. Leave it out."
            )
    apart, scores = ~np.eye(len(z), dtype=bool), np.ones((len(z), len(z)))
    for i, j in zip(*np.nonzero(apart), strict=True):
        scores[i, j] = r2(LinearDecoder().fit(z[i], z[j]).predict(z[i]), z[j])
    by_chance = np.array([[run.shape[1] / (rows - 1)] * len(z) for run in z])
    return Consistency(names, scores, np.where(apart, by_chance, 1.0), float(scores[apart].mean()), rows)


def _named(values: Mapping[str, ArrayLike] | Sequence[ArrayLike] | Array) -> tuple[tuple[str, ...], list[ArrayLike]]:
    if isinstance(values, Mapping):
        return tuple(map(str, values)), list(values.values())
    return tuple(map(str, range(len(values)))), list(values)


def _aligned(
    names: tuple[str, ...],
    latents: list[Float[np.ndarray, "_N _D"]],
    label_names: tuple[str, ...],
    labels: list[ArrayLike],
    *,
    bins: int | None,
) -> list[Float[np.ndarray, "values _D"]]:
    """The mean latents of each run at each value of the labels that all runs have."""
    if set(label_names) != set(names):
        raise ValueError(f"Expected labels for each run, {', '.join(names)}; got {', '.join(label_names) or 'none'}.")
    by_name = dict(zip(label_names, labels, strict=True))
    values = [as_array(f"labels of {name}", by_name[name]) for name in names]
    for name, value, run in zip(names, values, latents, strict=True):
        if value.shape != (len(run),):
            raise ValueError(f"Expected labels of {name} of shape ({len(run)},), one per row; got {value.shape}.")
    if bins is not None:
        check_count("bins", bins)
        low, high = max(value.min() for value in values), min(value.max() for value in values)
        if not low < high:
            raise ValueError(
                f"Expected labels whose ranges overlap; got none in common: the largest minimum is {low:g}, the "
                f"smallest maximum {high:g}."
            )
        edges = np.linspace(low, high, bins + 1)
        inside = [(value >= low) & (value <= high) for value in values]
        latents = [run[keep] for run, keep in zip(latents, inside, strict=True)]
        values = [
            np.minimum(np.searchsorted(edges, value[keep], side="right") - 1, bins - 1)
            for value, keep in zip(values, inside, strict=True)
        ]
    shared = values[0]
    for value in values[1:]:
        shared = np.intersect1d(shared, value)
    return [_means(run, value, np.unique(shared)) for run, value in zip(latents, values, strict=True)]


def _means(
    run: Float[np.ndarray, "N D"], labels: Float[np.ndarray, " N"] | Int[np.ndarray, " N"], shared: np.ndarray
) -> Float[np.ndarray, "values D"]:
    keep = np.isin(labels, shared)
    place = np.searchsorted(shared, labels[keep])
    sums = np.zeros((len(shared), run.shape[1]))
    np.add.at(sums, place, run[keep])
    return sums / np.bincount(place, minlength=len(shared))[:, None]
