"""What each prior has found of the latents of each world, and its held-out evidence."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recparam.plots.style import MUTED, dot_with_interval

_MATCHING, _OTHER, _CONTROL = "#0072B2", "#D55E00", "#8C8C8C"
_LEAST = 1e-5  # of what is missing to one, on a logarithmic axis
_COLUMNS = {"r2": "not decoded linearly: 1 - $R^2$", "mcc": "not one to one: 1 - MCC"}
_AIMS = {("r2", "von-mises-fisher"): 0.01, ("mcc", "laplace"): 0.1}
"""Of the prior of a world's own shape."""


def draw_identifiability(results: Mapping[str, Any]) -> Figure:
    """Draw the content of `results.json`: a row for each world, with intervals over seeds."""
    summary, matching = results["summary"], results["settings"]["matching"]
    worlds: dict[str, list[str]] = {}
    for arm in summary:
        world, prior = arm.split("/")
        worlds.setdefault(world, []).append(prior)
    counts = [len(priors) for priors in worlds.values()]
    figure = Figure(figsize=(9.0, 1.2 + 0.24 * sum(counts) + 0.5 * len(worlds)), layout="constrained")
    grid = figure.subplots(len(worlds), 3, squeeze=False, height_ratios=counts)
    for row, (world, priors) in zip(grid, worlds.items(), strict=True):
        of = {prior: summary[f"{world}/{prior}"] for prior in priors}
        colours = [_colour(prior, matching[world]) for prior in priors]
        for ax, name in zip(row, _COLUMNS, strict=False):
            _missing_to_one(ax, of, name, colours)
            if (name, matching[world]) in _AIMS:
                ax.axvline(_AIMS[name, matching[world]], color=MUTED, lw=0.8, ls=":")
        _evidence(row[2], of, colours)
        row[0].set_yticks(range(len(priors)), priors)
        row[0].set_title(world, loc="left", fontweight="bold")
        for ax in row:
            ax.set_ylim(len(priors) - 0.5, -0.5)
            ax.spines[["top", "right"]].set_visible(False)
        for ax in row[1:]:
            ax.set_yticks([])
    for ax, label in zip(grid[-1], [*_COLUMNS.values(), "held-out evidence (nats)"], strict=True):
        ax.set_xlabel(label)
    names = {_MATCHING: "prior of the world's own shape", _OTHER: "another prior", _CONTROL: "control"}
    dots = [grid[0, 0].plot([], [], "o", ms=4, color=colour, label=name)[0] for colour, name in names.items()]
    lines = [
        grid[0, 0].plot([], [], color=MUTED, lw=0.8, ls=ls, label=label)[0]
        for ls, label in ((":", "aim"), ("--", "information of the world"))
    ]
    figure.legend(handles=[*dots, *lines], loc="outside lower center", ncols=5)
    return figure


def _colour(prior: str, matching: str) -> str:
    return _MATCHING if prior == matching else _CONTROL if prior in ("untrained", "truth", "chance") else _OTHER


def _missing_to_one(ax: Axes, of: Mapping[str, Any], name: str, colours: list[str]) -> None:
    for row, (found, colour) in enumerate(zip(of.values(), colours, strict=True)):
        if name in found:
            dot_with_interval(ax, {key: _missing(value) for key, value in found[name].items()}, row, colour)
    ax.set_xscale("log")
    ax.set_xlim(_LEAST / 1.5, 2)


def _missing(value: float | None) -> float | None:
    return None if value is None else max(1 - value, _LEAST)


def _evidence(ax: Axes, of: Mapping[str, Any], colours: list[str]) -> None:
    for row, (found, colour) in enumerate(zip(of.values(), colours, strict=True)):
        if "evidence_nats" in found:
            dot_with_interval(ax, found["evidence_nats"], row, colour)
        if "information_nats" in found:
            ax.axvline(found["information_nats"]["mean"], color=MUTED, lw=0.8, ls="--")
