"""What a fitted prior expects to follow: P(z'|z) of a few latents, over the candidates z' of a bank."""

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from recparam.plots.style import MUTED, style

_COLOURS = ("#0072B2", "#D55E00", "#009E73")  # of Okabe & Ito's palette
_CANDIDATES = "#cccccc"
_BINS = 60
_FAINTEST = 0.04  # of the largest probability: what is less likely is drawn as candidate only


def draw_prior(
    candidates: Float[np.ndarray, "K D"],
    probability: Float[np.ndarray, "A K"],
    *,
    z: Float[np.ndarray, "A D"],
    following: Float[np.ndarray, "A D"],
) -> Figure:
    """Draw P(z'|z) of a few latents, three at most.

    One latent is drawn as histograms of z'; two as a panel for each z, where a candidate is the more opaque the more
    probable it is; of more, the two principal components of the candidates are drawn.

    Args:
        candidates: z' among which R(z') is spread evenly, shape (K, D).
        probability: of each of them given each z, rows sum to one, shape (A, K).
        z: from which is predicted, shape (A, D).
        following: what did follow, shape (A, D); NaN where it is not known.

    Returns:
        A figure with an Agg canvas, unknown to pyplot.
    """
    count = min(len(z), len(_COLOURS))
    with style():
        if candidates.shape[1] == 1:
            return _histograms(candidates[:, 0], probability[:count], z[:count, 0], following[:count, 0])
        centre, axes_of, names = np.zeros(2), np.eye(2), ("$z_1$", "$z_2$")
        if candidates.shape[1] > 2:
            centre = candidates.mean(0)
            axes_of, names = np.linalg.svd(candidates - centre, full_matrices=False)[2][:2].T, ("PC 1", "PC 2")
        flat, here, there = ((points - centre) @ axes_of for points in (candidates, z, following))
        fig = Figure(figsize=(0.4 + 2.9 * count, 3.3), layout="constrained")
        FigureCanvasAgg(fig)
        panels = np.atleast_1d(np.asarray(fig.subplots(1, count, sharex=True, sharey=True)))
        for k, ax in enumerate(panels):
            share = probability[k] / probability[k].max()
            likely = np.flatnonzero(share > _FAINTEST)
            ax.scatter(*flat.T, s=3, lw=0, color=_CANDIDATES)
            ax.scatter(*flat[likely].T, s=9, lw=0, color=_COLOURS[k], alpha=share[likely])
            ax.plot(*here[k], ls="none", marker="o", ms=8, mfc="none", mec="black", mew=1.4)
            ax.plot(*there[k], ls="none", marker="X", ms=8, mfc="white", mec="black", mew=1.0)
            ax.set_xlabel(names[0])
            ax.set_aspect("equal", adjustable="box")
            ax.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel(names[1], rotation=0, labelpad=10, va="center")
        _legend(fig, "$R(z')$: a candidate", "$P(z'|z)$: the more opaque, the likelier")
    return fig


def _histograms(
    candidates: Float[np.ndarray, " K"],
    probability: Float[np.ndarray, "A K"],
    z: Float[np.ndarray, " A"],
    following: Float[np.ndarray, " A"],
) -> Figure:
    fig = Figure(figsize=(7.0, 3.0), layout="constrained")
    FigureCanvasAgg(fig)
    ax = fig.add_subplot()
    edges = np.histogram_bin_edges(candidates, bins=_BINS).tolist()
    ax.hist(candidates, bins=edges, density=True, color=_CANDIDATES)
    for k, colour in enumerate(_COLOURS[: len(z)]):
        ax.hist(candidates, bins=edges, weights=probability[k], density=True, histtype="step", color=colour, lw=1.4)
        ax.plot(z[k], 0, marker="o", ms=8, mfc="none", mec=colour, mew=1.6, clip_on=False, zorder=5)
        ax.plot(following[k], 0, marker="X", ms=8, mfc=colour, mec="black", mew=0.7, clip_on=False, zorder=5)
    ax.set_xlabel("$z'$")
    ax.set_ylabel("density")
    ax.spines[["top", "right"]].set_visible(False)
    _legend(fig, "$R(z')$", "$P(z'|z)$, a colour for each $z$")
    return fig


def _legend(fig: Figure, candidates: str, probability: str) -> None:
    mark = {"ls": "none", "mec": "black", "ms": 7}
    handles = [
        Line2D([], [], ls="none", marker="s", color=_CANDIDATES, label=candidates),
        Line2D([], [], ls="none", marker="s", color=_COLOURS[0], label=probability),
        Line2D([], [], marker="o", mfc="none", label="$z$", **mark),
        Line2D([], [], marker="X", mfc="white", label="what followed", **mark),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=4, labelcolor=MUTED, handletextpad=0.3)
