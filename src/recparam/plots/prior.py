"""What a prior expects to follow: P(z'|z) of a few latents, over the candidates z' of a bank, and trajectories."""

import textwrap

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from recparam.model.prediction import grid_probabilities
from recparam.model.trajectories import trajectories
from recparam.plots.style import MUTED, style
from recparam.priors import Prior
from recparam.utils.checks import check_count, check_matrix

_COLOURS = ("#0072B2", "#D55E00", "#009E73")  # of Okabe & Ito's palette
_CANDIDATES = "#cccccc"
_CANDIDATE = "$R(z')$: a candidate"
_BINS = 60
_TURN = (-180, -90, 0, 90, 180)
_FAINTEST = 0.04  # of the largest probability: what is less likely is drawn as candidate only


def draw_prior(
    prior: Prior,
    base: Float[torch.Tensor, "M D"],
    *,
    steps: int = 40,
    dims: tuple[int, int] | None = None,
    seed: int = 0,
) -> Figure:
    """Draw what a prior assumes, without data or with the latents of some: P(z'|z) and trajectories.

    Three trajectories are drawn by `recparam.trajectories`. Above is, for each of them, what the prior expects to
    follow its first latents, as many as the prior reads; below are the trajectories, from their first latent (circle)
    to their last. Of more than two latents the first two principal components of the base are drawn, or the angles on
    the first two circles of a torus, unless `dims` says which two latents.

    Args:
        prior: An InfoNCE prior, or one with a density of two latents.
        base: Latents among which R(z) is spread evenly, shape (M, D): an encoder's, or a grid for a uniform R.
        steps: Length of each trajectory; more than the prior's order.
        dims: Which two latents to draw.
        seed: Of the trajectories.

    Returns:
        A figure with an Agg canvas, unknown to pyplot; `figure.savefig(path)` writes it.

    Raises:
        ValueError: As `recparam.trajectories`; steps that do not exceed the prior's order; dims that are not two
            latents.
        NonFiniteError: The base holds NaN or infinity.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> grid = torch.cartesian_prod(torch.linspace(-4, 4, 33), torch.linspace(-4, 4, 33))
        >>> figure = rp.draw_prior(rp.InfoNCEPrior(rp.StepLength(radius=1.0, width=0.2)), grid)
        >>> len(figure.axes)
        6
    """
    order = prior.order
    check_count("steps", steps, least=order + 1)
    check_matrix("base", base)
    width = base.shape[1]
    if len(base) < 2 or not width:
        raise ValueError(f"Expected base of at least two rows of at least one latent; got {tuple(base.shape)}.")
    if dims is not None and (len(dims) != 2 or dims[0] == dims[1] or not all(0 <= dim < width for dim in dims)):
        raise ValueError(f"Expected dims as two different latents of 0 to {width - 1}; got {dims}.")
    generator = torch.Generator(base.device).manual_seed(seed)
    paths = trajectories(prior, base, steps, num=len(_COLOURS), generator=generator)
    context = paths[:, :order].flatten(1)
    with torch.no_grad():
        probability = grid_probabilities(prior, context, base, base="uniform")
    numbers = [np.asarray(part.detach().cpu().double()) for part in (base, probability, paths)]
    candidates, likely, drawn = numbers
    with style():
        fig = Figure(figsize=(9.1, 6.4), layout="constrained")
        FigureCanvasAgg(fig)
        above, below = np.asarray(fig.subfigures(2, 1))
        here, following = drawn[:, order - 1], np.full((len(drawn), width), np.nan)
        if width == 1:
            _histograms(above, candidates[:, 0], likely, here[:, 0], following[:, 0])
            ax = below.subplots()
            for k, colour in enumerate(_COLOURS):
                ax.plot(np.arange(1, steps + 1), drawn[k, :, 0], color=colour, lw=1.2, marker="o", ms=2.5)
            ax.set_xlabel("step")
            ax.set_ylabel("$z_t$", rotation=0, labelpad=10, va="center")
            ax.spines[["top", "right"]].set_visible(False)
        else:
            plane = _Plane(candidates, dims)
            for k, ax in enumerate(_likely(above, plane, candidates, likely, here, following)):
                ax.plot(*plane.path(drawn[k, :order]).T, color="black", lw=0.9, marker="o", ms=2.5)
            for k, ax in enumerate(_panels(below, plane, len(_COLOURS))):
                ax.scatter(*plane(candidates).T, s=3, lw=0, color=_CANDIDATES)
                ax.plot(*plane.path(drawn[k]).T, color=_COLOURS[k], lw=0.9, marker="o", ms=2.5, mew=0)
                ax.plot(*plane(drawn[k, :1]).T, ls="none", marker="o", ms=8, mfc="none", mec="black", mew=1.4)
        above.suptitle(textwrap.fill(prior.formula(), 110))
        _legend(fig, _CANDIDATE if width > 1 else "$R(z')$", "$P(z'|z)$, and below a trajectory", following=False)
    return fig


def draw_prediction(
    candidates: Float[np.ndarray, "K D"],
    probability: Float[np.ndarray, "A K"],
    *,
    z: Float[np.ndarray, "A D"],
    following: Float[np.ndarray, "A D"],
) -> Figure:
    """Draw P(z'|z) of a few latents, three at most.

    One latent is drawn as histograms of z'; two as a panel for each z, where a candidate is the more opaque the more
    probable it is; of more, the two principal components of the candidates are drawn, and of several circles the angles
    on the first two.

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
            fig = Figure(figsize=(7.0, 3.0), layout="constrained")
            FigureCanvasAgg(fig)
            _histograms(fig, candidates[:, 0], probability[:count], z[:count, 0], following[:count, 0])
            _legend(fig, "$R(z')$", "$P(z'|z)$, a colour for each $z$")
            return fig
        plane = _Plane(candidates, None)
        fig = Figure(figsize=(0.4 + 2.9 * count, 3.3), layout="constrained")
        FigureCanvasAgg(fig)
        _likely(fig, plane, candidates, probability[:count], z[:count], following[:count])
        _legend(fig, _CANDIDATE, "$P(z'|z)$: the more opaque, the likelier")
    return fig


class _Plane:
    """What is drawn of latents: two of them, two that are named, two angles of a torus, or two principal components."""

    def __init__(self, candidates: Float[np.ndarray, "K D"], dims: tuple[int, int] | None) -> None:
        width = candidates.shape[1]
        self.centre, self.axes, self.names = np.zeros(width), np.eye(width)[:, :2], ("$z_1$", "$z_2$")
        several = dims is None and width > 2 and width % 2 == 0
        self.angles = several and np.allclose(np.hypot(candidates[:, ::2], candidates[:, 1::2]), 1, atol=1e-4)
        if self.angles:
            self.names = ("angle 1, degrees", "angle 2, degrees")
        elif dims is not None:
            self.axes, self.names = np.eye(width)[:, list(dims)], (f"$z_{dims[0] + 1}$", f"$z_{dims[1] + 1}$")
        elif width > 2:
            self.centre, self.names = candidates.mean(0), ("PC 1", "PC 2")
            self.axes = np.linalg.svd(candidates - self.centre, full_matrices=False)[2][:2].T

    def __call__(self, points: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N 2"]:
        if self.angles:
            return np.degrees(np.arctan2(points[..., [1, 3]], points[..., [0, 2]]))
        return (points - self.centre) @ self.axes

    def path(self, points: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "M 2"]:
        """Points to be joined by lines, with a gap where an angle goes from 180 to -180 degrees."""
        flat = self(points)
        around = np.abs(np.diff(flat, axis=0)).max(1) > 180 if self.angles else np.zeros(max(len(flat) - 1, 0), bool)
        return np.insert(flat, np.flatnonzero(around) + 1, np.nan, axis=0)


def _panels(fig: Figure | SubFigure, plane: _Plane, count: int) -> list[Axes]:
    panels = list(np.atleast_1d(np.asarray(fig.subplots(1, count, sharex=True, sharey=True))))
    for ax in panels:
        ax.set_xlabel(plane.names[0])
        ax.set_aspect("equal", adjustable="box")
        if plane.angles:
            ax.set(xlim=(-180, 180), ylim=(-180, 180), xticks=_TURN, yticks=_TURN)
        ax.spines[["top", "right"]].set_visible(False)
    upright = {} if plane.angles else {"rotation": 0, "labelpad": 10, "va": "center"}
    panels[0].set_ylabel(plane.names[1], **upright)
    return panels


def _likely(
    fig: Figure | SubFigure,
    plane: _Plane,
    candidates: Float[np.ndarray, "K D"],
    probability: Float[np.ndarray, "A K"],
    z: Float[np.ndarray, "A D"],
    following: Float[np.ndarray, "A D"],
) -> list[Axes]:
    flat, here, there = (plane(points) for points in (candidates, z, following))
    panels = _panels(fig, plane, len(z))
    for k, ax in enumerate(panels):
        share = probability[k] / probability[k].max()
        likely = np.flatnonzero(share > _FAINTEST)
        ax.scatter(*flat.T, s=3, lw=0, color=_CANDIDATES)
        ax.scatter(*flat[likely].T, s=9, lw=0, color=_COLOURS[k], alpha=share[likely])
        ax.plot(*here[k], ls="none", marker="o", ms=8, mfc="none", mec="black", mew=1.4)
        ax.plot(*there[k], ls="none", marker="X", ms=8, mfc="white", mec="black", mew=1.0)
    return panels


def _histograms(
    fig: Figure | SubFigure,
    candidates: Float[np.ndarray, " K"],
    probability: Float[np.ndarray, "A K"],
    z: Float[np.ndarray, " A"],
    following: Float[np.ndarray, " A"],
) -> None:
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


def _legend(fig: Figure, candidates: str, probability: str, *, following: bool = True) -> None:
    mark = {"ls": "none", "mec": "black", "ms": 7}
    handles = [
        Line2D([], [], ls="none", marker="s", color=_CANDIDATES, label=candidates),
        Line2D([], [], ls="none", marker="s", color=_COLOURS[0], label=probability),
        Line2D([], [], marker="o", mfc="none", label="$z$", **mark),
        Line2D([], [], marker="X", mfc="white", label="what followed", **mark),
    ][: 4 if following else 3]
    fig.legend(handles=handles, loc="outside lower center", ncols=4, labelcolor=MUTED, handletextpad=0.3)
