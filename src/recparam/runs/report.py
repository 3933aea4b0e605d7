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
from recparam.plots.page import DASH, number, pairs_table, png_source, section, table, text, write_page
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
            "block".
        history: of the training, see `draw_training`.
        latents: of the data of the fit.
        labels: by name, a value per row that colours the latents; NaN where there is none.
        prediction: P(z'|z) of some of them; None for a prior with a density of its own.
        data: what was fitted to, by name.
        settings: of the fit, by name.
        versions: of the software, by name.

    Returns:
        The path written.

    Raises:
        OSError: the file cannot be written.
    """
    parts = [
        f'<header>\n<h1>{text(title)}</h1>\n<p class="label">{text(_sentence(bound))}</p>\n</header>',
        section("Model", f'<pre style="white-space: pre-wrap">{text(description)}</pre>'),
        _bound(bound),
        _training(history),
        _series(latents),
        _planes(latents, labels or {}),
        _prior(prediction),
        *(
            section(heading, pairs_table(values))
            for heading, values in (("Data", data), ("Settings", settings), ("Versions", versions))
            if values
        ),
    ]
    return write_page(path, title=title, parts=parts)


def _sentence(bound: Mapping[str, Any]) -> str:
    ceiling = bound.get("ceiling_nats")
    limit = "" if ceiling is None else f" of at most {number(ceiling, 4)}"
    return f"Held-out ELBO less its constant: {number(bound.get('value_nats'), 4)}{limit} nats per pair"


def _bound(bound: Mapping[str, Any]) -> str:
    low, high = bound.get("low_nats"), bound.get("high_nats")
    interval = DASH if low is None or high is None else f"{number(low, 4)} to {number(high, 4)}"
    row = [
        text("ELBO − const"),
        text(bound["kind"]),
        number(bound.get("value_nats"), 4),
        interval,
        number(bound.get("ceiling_nats"), 4),
        *(DASH if bound.get(key) is None else text(bound[key]) for key in ("pairs", "block")),
    ]
    head = ["quantity", "kind", "nats per pair", "95% interval", "ceiling", "pairs", "pairs per block"]
    note = (
        f'<p class="note">Of the held-out pairs this is {text(_KINDS.get(bound["kind"], bound["kind"]))}. No value '
        "exceeds its ceiling, whatever was learned; one that is close to it says “at least about this much”. The "
        "interval is a block bootstrap over the held-out pairs: of this model and this stretch of data, not of "
        "another training run. The constant, log R_base(x) R_base(x′), depends on no parameter.</p>"
    )
    return section("Held-out bound", table(head, [row], left=2) + "\n" + note)


def _training(history: Sequence[Mapping[str, Any]]) -> str:
    note = (
        '<p class="note">The bound in training, of batches that the encoder is being fitted to, is an objective and '
        "proves nothing; the held-out one is of the block at the end of each session. Banks of different sizes have "
        "different ceilings, so that the two lines compare only in shape.</p>"
    )
    return section("Training", _image(draw_training(history), "Training curve") + "\n" + note)


def _series(latents: Latents) -> str:
    figure = draw_latent_series(
        latents.z, times=latents.times, sessions=latents.sessions, held_out=latents.held_out_segments()
    )
    ends = " Vertical lines: a session ends." if latents.sessions.any() else ""
    shown = "" if latents.z.shape[1] <= 6 else f" The first 6 of {latents.z.shape[1]} latents are drawn."
    note = f'<p class="note">Shaded: held out.{ends}{shown}</p>'
    return section("Latents over time", _image(figure, "Latents over time") + "\n" + note)


def _planes(latents: Latents, labels: Mapping[str, np.ndarray]) -> str:
    rows = np.arange(len(latents.z), dtype=float)
    if latents.times is not None and not latents.sessions.any():
        colours: dict[str, np.ndarray] = {"time (s)": latents.times}
    else:
        colours = {"row of the data": rows}
    if latents.sessions.any():
        colours["session"] = latents.sessions.astype(float)
    body: list[str] = []
    for name, values in {**colours, **labels}.items():
        figure = draw_latent_plane(latents.z, colour=values, title=name)
        body.append(f"<h3>Coloured by {text(name)}</h3>\n" + _image(figure, f"Latents coloured by {name}"))
        if name in labels:
            body.append(f'<p class="note">{text(decoding(latents, values))}</p>')
    return section("Latents", "\n".join(body))


def _prior(prediction: LatentPrediction | None) -> str:
    if prediction is None:
        note = (
            "Nothing is drawn: this prior has a density of its own, whose equation stands under Model, or the sessions "
            "have channels, and so R(z′), of their own."
        )
        return section("The prior", f'<p class="note">{note}</p>')
    figure = draw_prediction(
        prediction.candidates, prediction.probability, z=prediction.z, following=prediction.following
    )
    width = prediction.z.shape[1]
    shown = f" Of {width} latents the first two principal components are drawn." if width > 2 else ""
    before = f" and the {prediction.order - 1} before it" if prediction.order > 1 else ""
    note = (
        '<p class="note">P(z′|z) of three held-out latents, from one end of the latents to the other: the latents z′ '
        f"of the fitted rows that the model keeps, each as probable as the prior holds it to follow z{before}. Without "
        f"z, all of them are equally probable: that is R(z′).{shown}</p>"
    )
    return section("The prior", _image(figure, "What the prior expects to follow") + "\n" + note)


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


def _image(figure: Figure, alt: str) -> str:
    content = io.BytesIO()
    with style():
        figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    width = round(figure.get_figwidth() * 100)  # as large on the page as its text wants it
    source = png_source(content.getvalue(), alt)
    return f'<figure>\n<img src="{source}" alt="{text(alt)}" style="max-width: {width}px">\n</figure>'
