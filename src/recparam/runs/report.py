"""One self-contained HTML page about a fitted model: its bound, its training, its latents, its data."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from recparam.evaluation import LinearDecoder, r2
from recparam.plots.latents import draw_latent_plane, draw_latent_series, draw_training
from recparam.plots.page import DASH, interval, number, png_source, write_page
from recparam.plots.prior import draw_prediction
from recparam.plots.style import style
from recparam.runs.latents import LatentPrediction, Latents

_DPI = 160
_KINDS = {
    "exact": "an exact value",
    "lower": "a lower bound, in expectation",
    "upper": "an upper bound, in expectation",
    "estimate": "an estimate: neither a lower nor an upper bound is proved",
}
_SHORTEST = 8  # rows: fewer have no decoder


def write_run_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    description: str,
    bound: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    latents: Latents,
    labels: Mapping[str, Float[np.ndarray, " N"]] | None = None,
    prediction: LatentPrediction | None = None,
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    versions: Mapping[str, Any],
) -> Path:
    """Write the report of a run as one HTML file that needs no other file, no network and no scripts.

    Args:
        path: the file to write; replaced as a whole, or not at all.
        title: of the page. This and every other text are escaped.
        description: what was fitted, in lines.
        bound: of the held-out pairs: "of", "kind", "value_nats", "low_nats", "high_nats", "ceiling_nats", "pairs",
            "blocks".
        history: of the training, see `draw_training`.
        latents: of the data of the fit.
        labels: by name, a value per row that colours the latents; NaN where there is none.
        prediction: what the prior expects to follow some of them; None for a density of its own.
        data: what was fitted to, by name.
        settings: of the fit, by name.
        versions: of the software, by name.

    Returns:
        The path written.

    Raises:
        OSError: the file cannot be written.
    """
    labels = labels or {}
    planes = [
        {
            "name": name,
            "figure": _drawn(draw_latent_plane(latents.z, colour=colour, title=name)),
            "decoding": decoding(latents, colour) if name in labels else "",
        }
        for name, colour in {**_colours(latents), **labels}.items()
    ]
    series = draw_latent_series(
        latents.z, times=latents.times, sessions=latents.sessions, held_out=latents.held_out_segments()
    )
    prior = None
    if prediction is not None:
        prior = draw_prediction(
            prediction.candidates, prediction.probability, z=prediction.z, following=prediction.following
        )
    values = {
        "title": title,
        "description": description,
        "bound": bound,
        "bound_row": [
            "ELBO − const",
            bound["kind"],
            number(bound["value_nats"], 4),
            interval(bound["low_nats"], bound["high_nats"], 4),
            number(bound["ceiling_nats"], 4),
            *(DASH if bound[key] is None else bound[key] for key in ("pairs", "blocks")),
        ],
        "meaning": _KINDS[bound["kind"]],
        "training": _drawn(draw_training(history)),
        "series": _drawn(series),
        "latents": latents,
        "planes": planes,
        "prediction": prediction,
        "prior": prior and _drawn(prior),
        "details": {"Data": data, "Settings": settings, "Versions": versions},
    }
    return write_page(path, "runs/report.html", values)


def _colours(latents: Latents) -> dict[str, np.ndarray]:
    """What colours the latents where there are no labels."""
    several = bool(latents.sessions.any())
    if latents.times is not None and not several:
        return {"time (s)": latents.times}
    row = np.arange(len(latents.z), dtype=float)
    return {"row of the data": row} | ({"session": latents.sessions.astype(float)} if several else {})


def decoding(latents: Latents, label: Float[np.ndarray, " N"]) -> str:
    """Say how well a label is decoded from the latents, by least squares on the rows that were trained on."""
    known = np.isfinite(label)
    train, test = known & ~latents.held_out, known & latents.held_out
    if min(train.sum(), test.sum()) < _SHORTEST:
        return "Too few labelled rows, trained on or held out, for a linear decoder."
    decoder = LinearDecoder().fit(latents.z[train], label[train])
    share = r2(decoder.predict(latents.z[test]), label[test])
    return (
        f"Linear decoding from all latents, fitted on the rows that were trained on, R² = {number(share)} on the "
        f"{int(test.sum())} held-out rows. The labels were not used in training."
    )


def _drawn(figure: Figure) -> dict[str, Any]:
    content = io.BytesIO()
    with style():
        figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    # As wide on the page as its text wants it.
    return {"source": png_source(content.getvalue(), "figure"), "width": round(figure.get_figwidth() * 100)}
