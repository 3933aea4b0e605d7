"""Accuracy from few labels, and held-out evidence, of each prior of the few-shot experiment."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recparam.plots.style import INK, MUTED, dot_with_interval

_TITLES = {"": "digits as they are", "_moved": "digits moved and turned"}
_SHOTS = {1: "#E69F00", 5: "#0072B2"}
_READERS = {"nearest_mean": ("o", "nearest mean"), "regression": ("D", "logistic regression")}


def draw_few_shot(results: Mapping[str, Any]) -> Figure:
    """Draw the content of `results.json`."""
    summary = results["summary"]
    figure = Figure(figsize=(9.0, 0.7 + 0.42 * max(len(summary), 4)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 3, sharey=True, width_ratios=[3, 3, 2]))
    for ax, (suffix, title) in zip(axes, _TITLES.items(), strict=False):
        _accuracies(ax, summary, suffix)
        ax.set_title(title)
    _evidence(axes[2], summary)
    axes[0].set_yticks(range(len(summary)), list(summary))
    axes[0].set_ylim(len(summary) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _accuracies(ax: Axes, summary: Mapping[str, Any], suffix: str) -> None:
    for step, (shots, colour) in enumerate(_SHOTS.items()):
        for place, (reader, (marker, label)) in enumerate(_READERS.items()):
            found = [summary[arm][f"{reader}_{shots}{suffix}"] for arm in summary]
            rows = np.arange(len(found)) - 0.24 + 0.16 * (2 * step + place)
            for row, each in zip(rows, found, strict=True):
                name = f"{shots} per class, {label}" if row == rows[0] else None
                dot_with_interval(ax, each, row, colour, marker=marker, label=name)
    ax.axvline(0.1, color=MUTED, lw=0.8, ls=":")
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of held-out digits right (dotted: chance)")
    ax.spines[["top", "right"]].set_visible(False)


def _evidence(ax: Axes, summary: Mapping[str, Any]) -> None:
    for row, arm in enumerate(summary):
        if "elbo_nats" in summary[arm]:
            dot_with_interval(ax, summary[arm]["elbo_nats"], row, INK, marker="s")
    ax.set_xlim(left=0)
    ax.set_title("held-out evidence")
    ax.set_xlabel("ELBO - const, estimate (nats)")
    ax.spines[["top", "right"]].set_visible(False)
