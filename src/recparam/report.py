"""One self-contained HTML page about a finished experiment: figures, tables, curves, settings, versions."""

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from recparam.plots import CEILING_TOLERANCE, above_ceiling, arm_title, order_arms
from recparam.storage import replacing

Image = bytes | str | os.PathLike[str]
"""A PNG: its bytes, or the path of its file."""

_PNG = b"\x89PNG\r\n\x1a\n"
_DASH = "–"

_ARMS = {
    "supervised": "the same encoder, trained on the true centres: what the architecture can reach",
    "recipe": "Gaussian coupling, trained with the settings this library recommends instead of the paper's",
    "gaussian": "InfoNCE with the Gaussian coupling (Eq. 27), the paper's settings",
    "linear": "InfoNCE with the linear, that is bilinear, coupling (Eq. 8), the paper's settings",
    "untrained": "the encoder as initialised: what the architecture gives away for free",
    "constant": "always the mean centre of the training video: what knowing nothing of the frame costs",
}

_TERMS = {
    "bound, ceiling": "what training maximises, and the largest value it can take with so many pairs per batch",
    "R(z′)": "the density of the latents over all frames, estimated from the training video; a “base” of the "
    "predicted density",
    "held-out video": "a fresh video of another seed, on which all errors are measured",
}

_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #222;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-top: .8rem; border-top: 1px solid #e2e2e2; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p, dl, .note { max-width: 46rem; }
figcaption { max-width: 54rem; }
.label { color: #555; font-size: 1.05rem; margin: 0 0 1rem; }
.note, figcaption { color: #555; font-size: .9rem; line-height: 1.5; }
figure { margin: 1rem 0 2rem; }
figure img { display: block; width: 100%; height: auto; }
figure.curves img { max-width: 760px; }
figcaption { margin-top: .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .4rem 0 .6rem;
  font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .32rem .9rem .32rem 0; text-align: right; white-space: nowrap; vertical-align: baseline; }
th { font-weight: 600; }
thead th { border-bottom: 1.5px solid #222; white-space: normal; vertical-align: bottom; line-height: 1.3; }
tbody td, tbody th { border-bottom: 1px solid #ececec; }
.text, th.text, td.text { text-align: left; }
td.text { white-space: normal; overflow-wrap: break-word; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
.arms { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; font-size: .95rem; }
.arms dd { margin: 0; }
@media print { h2 { break-after: avoid; } figure, table { break-inside: avoid; } main { max-width: none; } }
"""


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    results: Mapping[str, Any],
    figures: Mapping[str, Image],
    curves: Image | Mapping[str, Image] | None = None,
    settings: Mapping[str, Any] | None = None,
    versions: Mapping[str, Any] | None = None,
    captions: Mapping[str, str] | None = None,
) -> Path:
    """Write the report as one HTML file that needs no other file, no network and no scripts.

    Args:
        path: the file to write; replaced as a whole, or not at all.
        title: of the page.
        results: content of ``results.json``; distances in pixels, bounds in nats. What it lacks is left out
            of the page.
        figures: PNGs by name, for Figure 1 the name of the video.
        curves: PNG of the training curves, or several by name.
        settings: of the experiment, nested as they come; by default those in ``results``.
        versions: of the software; by default those in ``results``.
        captions: text under the figures, by the same names.

    Returns:
        The path written.

    Raises:
        ValueError: if an image is not a PNG.
        OSError: if an image cannot be read or the file cannot be written.
    """
    settings = results.get("settings", {}) if settings is None else settings
    versions = results.get("versions", {}) if versions is None else versions
    captions = {} if captions is None else captions
    parts = [
        _introduction(title, results),
        *(_figure(name, image, captions.get(name, "")) for name, image in figures.items()),
        _errors(results),
        _bounds(results),
        _curves(curves),
        _failures(results.get("failed") or ()),
        _section("Settings", _pairs(settings)) if settings else "",
        _section("Versions", _pairs(versions)) if versions else "",
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )
    with replacing(path) as file:
        file.write_text(page, encoding="utf-8")
    return Path(path)


def _text(value: object) -> str:
    return escape(str(value), quote=True)


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{_text(heading)}</h2>\n{body}\n</section>"


def _introduction(title: str, results: Mapping[str, Any]) -> str:
    label = _text(results.get("label", ""))
    facts: list[str] = []
    if results.get("preset"):
        facts.append(f"Preset <strong>{_text(results['preset'])}</strong>")
    if results.get("size_px"):
        facts.append(f"frames of {_text(results['size_px'])} × {_text(results['size_px'])} px")
    if results.get("diameter_px"):
        facts.append(f"balls of {_text(format(results['diameter_px'], 'g'))} px diameter")
    seeds = results.get("seeds") or ()
    if seeds:
        facts.append(("seed " if len(seeds) == 1 else "seeds ") + _text(", ".join(map(str, seeds))))
    if _finite(results.get("seconds")):
        facts.append(f"{_duration(float(results['seconds']))} for the last command")
    arms = order_arms(list(results.get("arms") or _arms_in(results)))
    items = "".join(f"<dt>{_text(arm_title(a))}</dt><dd>{_text(_ARMS.get(a, ''))}</dd>" for a in arms)
    terms = "".join(f"<dt>{_text(term)}</dt><dd>{_text(meaning)}</dd>" for term, meaning in _TERMS.items())
    return (
        f'<header>\n<h1>{_text(title)}</h1>\n<p class="label">{label}</p>\n</header>\n'
        "<section>\n<p>An encoder sees pairs of consecutive frames of a video of moving balls and no labels; "
        "a linear decoder, fitted on the training video, then reads the centres of the balls from it. "
        "Errors are mean distances between decoded and true centres on a fresh video of another seed.</p>\n"
        + (f"<p>{'; '.join(facts)}.</p>\n" if facts else "")
        + (f'<h3>Arms</h3>\n<dl class="arms">{items}</dl>\n' if items else "")
        + (f'<h3>Terms</h3>\n<dl class="arms">{terms}</dl>\n' if items else "")
        + "</section>"
    )


def _figure(name: str, image: Image, caption: str) -> str:
    return _section(
        f"Figure 1: {name}",
        f'<figure>\n<img src="{_source(image, name)}" alt="{_text("Figure 1, " + name)}">\n'
        f"<figcaption>{_text(caption)}</figcaption>\n</figure>",
    )


def _curves(curves: Image | Mapping[str, Image] | None) -> str:
    if curves is None:
        return ""
    named = curves if isinstance(curves, Mapping) else {"": curves}
    body = "\n".join(
        (f"<h3>{_text(name)}</h3>\n" if name else "")
        + f'<figure class="curves">\n<img src="{_source(image, name or "curves")}" '
        f'alt="{_text(("Training curves, " + name) if name else "Training curves")}">\n</figure>'
        for name, image in named.items()
    )
    note = (
        '<p class="note">The bound of each arm in training, in nats; its ceiling is dashed. Where a curve leaves '
        "the range up to the ceiling by far, the axis is logarithmic there. Crosses, if any, mark values above their "
        "ceiling: single precision lost, not a bound.</p>"
    )
    return _section("Training curves", f"{note}\n{body}") if named else ""


def _source(image: Image, name: str) -> str:
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    if not data.startswith(_PNG):
        raise ValueError(
            f"figures and curves: expected PNG images, got other content for {name!r}; "
            "pass the .png that save_figure returns first, not the .pdf"
        )
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _errors(results: Mapping[str, Any]) -> str:
    summary: Mapping[str, Mapping[str, Mapping[str, Any]]] = results.get("summary") or {}
    tables: list[str] = []
    for video, arms in summary.items():
        balls = max((len(row.get("per_ball_px") or ()) for row in arms.values()), default=0)
        head = ["arm", "mean (px)", "95% interval", "× supervised", "at 256 px"]
        head += [f"ball {ball + 1}" for ball in range(balls)] + ["matched (px)"]
        supervised = (arms.get("supervised") or {}).get("mean_px")
        rows: list[list[str]] = []
        for arm in order_arms(arms):
            row = arms[arm]
            mean, low, high = row.get("mean_px"), row.get("low_px"), row.get("high_px")
            interval = f"{_number(low)} to {_number(high)}" if _finite(low) and _finite(high) else _DASH
            each = list(row.get("per_ball_px") or ())
            each += [None] * (balls - len(each))
            rows.append(
                [
                    _text(arm_title(arm)),
                    _number(mean),
                    interval,
                    _number(_ratio(mean, supervised)),
                    _number(row.get("mean_256_px")),
                    *(_number(value) for value in each),
                    _number(row.get("matched_mean_px")),
                ]
            )
        tables.append(f"<h3>{_text(video)}</h3>\n" + _table(head, rows, left=1))
    if not tables:
        return ""
    seeds = results.get("seeds") or ()
    spread = (
        "With a single seed there is no interval. " if len(seeds) == 1 else "The interval is Student's t over seeds. "
    )
    note = (
        f'<p class="note">Mean distance on the held-out video, in pixels of the frames. {spread}'
        "“At 256 px” scales the mean to the paper's frame. “Matched” is the error without linear decoder: "
        "each latent is matched to one coordinate, with scale and shift only.</p>"
    )
    return _section("Errors", "\n".join([*tables, note]))


def _bounds(results: Mapping[str, Any]) -> str:
    keys = ("bound_nats", "heldout_bound_nats")
    runs = [run for run in results.get("runs") or () if any(_finite(run.get(key)) for key in keys)]
    if not runs:
        return ""
    head = ["video", "arm", "of", "kind", "seed", "training", "ceiling", "held out", "ceiling", "seconds"]
    order = order_arms(list(dict.fromkeys(run["arm"] for run in runs)))
    videos = list(dict.fromkeys(run["video"] for run in runs))
    runs.sort(key=lambda run: (videos.index(run["video"]), order.index(run["arm"]), run["seed"]))
    rows = [
        [
            _text(run["video"]),
            _text(arm_title(run["arm"])),
            _text(_meaning(run.get("bound_of"))),
            _text(run.get("bound_kind") or _DASH),
            _text(run["seed"]),
            _number(run.get("bound_nats"), 4),
            _number(run.get("ceiling_nats"), 4),
            _number(run.get("heldout_bound_nats"), 4),
            _number(run.get("heldout_ceiling_nats"), 4),
            _number(run.get("seconds"), 3),
            _text(_remark(run)),
        ]
        for run in runs
    ]
    remarks = any(row[-1] for row in rows)
    if remarks:
        head.append("remark")
    else:
        rows = [row[:-1] for row in rows]
    note = (
        '<p class="note">In nats per pair. “Of” is the quantity, “kind” says whether the value is a lower or '
        "an upper bound of it or an estimate. Whatever is learned, in exact arithmetic no value exceeds its "
        f"ceiling; one that does so by more than {CEILING_TOLERANCE:g} nats is marked in words.</p>"
    )
    return _section("Bounds", _table(head, rows, left=4, right=int(remarks)) + "\n" + note)


def _remark(run: Mapping[str, Any]) -> str:
    pairs = (("training", "bound_nats", "ceiling_nats"), ("held out", "heldout_bound_nats", "heldout_ceiling_nats"))
    above = [name for name, bound, ceiling in pairs if _exceeds(run.get(bound), run.get(ceiling))]
    whose = "its ceiling" if len(above) == 1 else "their ceilings"
    return f"{' and '.join(above)} above {whose}: single precision lost, not a bound" if above else ""


def _exceeds(value: Any, ceiling: Any) -> bool:
    return _finite(value) and _finite(ceiling) and above_ceiling(value, ceiling)


def _ratio(value: Any, reference: Any) -> float | None:
    return value / reference if _finite(value) and _finite(reference) and reference > 0 else None


def _meaning(of: object) -> str:
    return {"elbo": "ELBO", "mi": "MI"}.get(str(of), str(of) if of else _DASH)


def _failures(failed: Sequence[Mapping[str, Any]]) -> str:
    if not failed:
        return ""
    keys = ("video", "arm", "seed", "message")
    rows = [[_text(run.get(key, _DASH)) for key in keys] for run in failed]
    return _section("Runs that did not finish", _table(list(keys), rows, left=4))


def _pairs(values: Mapping[str, Any]) -> str:
    return _table(["name", "value"], [[_text(k), _text(v)] for k, v in _flat(values)], left=2)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value)) or _DASH
        else:
            yield name, _DASH if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, right: int = 0) -> str:
    """Build a table from escaped cells; ``left`` columns are text, then come numbers, then ``right`` of text."""

    def cell(index: int, content: str, tag: str, scope: str = "") -> str:
        kind = ' class="text"' if index < left or index >= len(head) - right else ""
        return f"<{tag}{scope}{kind}>{content}</{tag}>"

    top = "".join(cell(i, _text(name), "th", ' scope="col"') for i, name in enumerate(head))
    body = "\n".join(
        "<tr>"
        + cell(0, row[0], "th", ' scope="row"')
        + "".join(cell(i, content, "td") for i, content in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    table = f"<table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="scroll">{table}</div>'


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any, digits: int = 3) -> str:
    """Format to significant digits without an exponent; a dash for what is not a finite number."""
    if not _finite(value):
        return _DASH
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    # A proper minus sign lines up with the digits; beyond six places nothing is measured.
    return f"{value:.{min(places, 6)}f}".replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _arms_in(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(arm for arms in (results.get("summary") or {}).values() for arm in arms))
