"""Decoding, held-out evidence and its differences, of the priors of the experiment on a recorded series."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recparam.plots.style import INK, MUTED, dot_with_interval

_AXES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
_FLOOR = -0.5  # of R2: what is worse is drawn there


def draw_rat(results: Mapping[str, Any]) -> Figure:
    """Draw the content of `results.json`."""
    summary = results["summary"]
    figure = Figure(figsize=(10.0, 0.9 + 0.36 * max(len(summary), 5)), layout="constrained")
    decoding, evidence, differences = figure.subplots(1, 3, width_ratios=[3, 2, 3])
    _decoding(decoding, summary)
    _evidence(evidence, summary)
    _differences(differences, results["comparisons"])
    for ax in (decoding, evidence, differences):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _decoding(ax: Axes, summary: Mapping[str, Any]) -> None:
    names = [name for name in next(iter(summary.values())) if name.startswith("r2_")]
    step = 0.5 / max(len(names), 2)
    for k, name in enumerate(names):
        for row, arm in enumerate(summary):
            found = summary[arm][name]
            place, colour = row + (k - (len(names) - 1) / 2) * step, _AXES[k % len(_AXES)]
            label = f"coordinate {k + 1}" if row == 0 else None
            dot_with_interval(ax, {key: _at_least(value) for key, value in found.items()}, place, colour, label=label)
    ax.axvline(0, color=MUTED, lw=0.8, ls=":")
    _rows(ax, list(summary))
    ax.set_xlim(_FLOOR - 0.04, 1.02)
    ax.set_title("linear decoding of position")
    ax.set_xlabel("held-out R2")
    ax.legend(loc="upper left", handletextpad=0.1)


def _evidence(ax: Axes, summary: Mapping[str, Any]) -> None:
    arms = [arm for arm in summary if "evidence_nats" in summary[arm]]
    for row, arm in enumerate(arms):
        dot_with_interval(ax, summary[arm]["evidence_nats"], row, INK, label="trained" if row == 0 else None)
        name = "untrained" if row == 0 else None
        dot_with_interval(ax, summary[arm]["untrained_nats"], row, MUTED, marker="x", label=name)
    _rows(ax, arms)
    ax.legend(loc="upper center", handletextpad=0.1)
    ax.set_title("held-out evidence")
    ax.set_xlabel("log P(x_3|x_1, x_2) - const, nats")


def _differences(ax: Axes, compared: list[Mapping[str, Any]]) -> None:
    names: list[str] = []
    for each in compared:
        for found in each["differences"]:
            name = f"{found['first']} -\n{found['second']}"
            names += [name] if name not in names else []
            place = names.index(name) + 0.5 * ((each["seed"] - compared[0]["seed"] + 0.5) / len(compared) - 0.5)
            ends = {"mean": "difference_nats", "low": "difference_low_nats", "high": "difference_high_nats"}
            dot_with_interval(ax, {key: found[value] for key, value in ends.items()}, place, INK)
    ax.axvline(0, color=MUTED, lw=0.8, ls=":")
    _rows(ax, names)
    ax.set_title("difference on the same windows, each seed")
    ax.set_xlabel("nats, with block-bootstrap interval")


def _rows(ax: Axes, names: list[str]) -> None:
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _at_least(value: float | None) -> float | None:
    return None if value is None else max(value, _FLOOR)
