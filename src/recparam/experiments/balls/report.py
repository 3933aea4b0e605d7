"""One self-contained HTML page about a finished experiment: figures, tables, curves, settings, versions."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recparam.experiments.balls.arm_style import arm_title, order_arms
from recparam.experiments.balls.curves import CEILING_TOLERANCE, above_ceiling
from recparam.plots.page import (
    DASH,
    Image,
    duration,
    finite,
    number,
    pairs_table,
    png_source,
    section,
    table,
    text,
    write_page,
)

_ARMS = {
    "supervised": "the same encoder, trained on the true centres: what the architecture can reach",
    "recipe": "Gaussian coupling, trained with the settings this library recommends instead of the paper's",
    "gaussian": "InfoNCE with the Gaussian coupling (Eq. 27), the paper's settings",
    "linear": "InfoNCE with the linear, that is bilinear, coupling (Eq. 8), the paper's settings",
    "steps": "each of three maps moves by one learned step length, in any direction, independently of the others; the "
    "best of several starts by the evidence on a third video",
    "velocity": "the velocity of all latents stays about the same (two earlier frames); the best start likewise",
    "velocity-steps": "both: constant velocity and a step length per map; the best start likewise",
    "untrained": "the encoder as initialised: what the architecture gives away for free",
    "constant": "always the mean centre of the training video: what knowing nothing of the frame costs",
}

_TRACKS = (
    "A stretch of the fresh video. White: the true paths. Colours: one per map of the encoder, its two latents "
    "shifted and scaled to pixels, without a linear decoder. Under a Gaussian prior each latent mixes the balls; where "
    "each map moves by a step of its own, each can follow one ball. Below: the prior, the mean correlation coefficient "
    "of latents and coordinates, and the evidence on the fresh video."
)

_TERMS = {
    "bound, ceiling": "what training maximises, and the largest value it can take with so many pairs per batch",
    "R(z′)": "the density of the latents over all frames, estimated from the training video; a “base” of the "
    "predicted density",
    "held-out video": "a fresh video of another seed, on which all errors are measured",
}


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    results: Mapping[str, Any],
    figures: Mapping[str, Image],
    tracks: Mapping[str, Image] | None = None,
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
        tracks: PNGs of where the maps are, by the name of the video.
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
        *(_figure(f"Figure 1: {name}", name, image, captions.get(name, "")) for name, image in figures.items()),
        *(_figure(f"Tracks: {name}", name, image, _TRACKS) for name, image in (tracks or {}).items()),
        _errors(results),
        _bounds(results),
        _curves(curves),
        _failures(results.get("failed") or ()),
        section("Settings", pairs_table(settings)) if settings else "",
        section("Versions", pairs_table(versions)) if versions else "",
    ]
    return write_page(path, title=title, parts=parts)


def _introduction(title: str, results: Mapping[str, Any]) -> str:
    label = text(results.get("label", ""))
    facts: list[str] = []
    if results.get("preset"):
        facts.append(f"Preset <strong>{text(results['preset'])}</strong>")
    if results.get("size_px"):
        facts.append(f"frames of {text(results['size_px'])} × {text(results['size_px'])} px")
    if results.get("diameter_px"):
        facts.append(f"balls of {text(format(results['diameter_px'], 'g'))} px diameter")
    seeds = results.get("seeds") or ()
    if seeds:
        facts.append(("seed " if len(seeds) == 1 else "seeds ") + text(", ".join(map(str, seeds))))
    if finite(results.get("seconds")):
        facts.append(f"{duration(float(results['seconds']))} for the last command")
    arms = order_arms(list(results.get("arms") or _arms_in(results)))
    items = "".join(f"<dt>{text(arm_title(a))}</dt><dd>{text(_ARMS.get(a, ''))}</dd>" for a in arms)
    terms = "".join(f"<dt>{text(term)}</dt><dd>{text(meaning)}</dd>" for term, meaning in _TERMS.items())
    return (
        f'<header>\n<h1>{text(title)}</h1>\n<p class="label">{label}</p>\n</header>\n'
        "<section>\n<p>An encoder sees pairs of consecutive frames of a video of moving balls and no labels; "
        "a linear decoder, fitted on the training video, then reads the centres of the balls from it. "
        "Errors are mean distances between decoded and true centres on a fresh video of another seed.</p>\n"
        + (f"<p>{'; '.join(facts)}.</p>\n" if facts else "")
        + (f'<h3>Arms</h3>\n<dl class="arms">{items}</dl>\n' if items else "")
        + (f'<h3>Terms</h3>\n<dl class="arms">{terms}</dl>\n' if items else "")
        + "</section>"
    )


def _figure(title: str, name: str, image: Image, caption: str) -> str:
    return section(
        title,
        f'<figure>\n<img src="{png_source(image, name)}" alt="{text(title.replace(": ", ", ", 1))}">\n'
        f"<figcaption>{text(caption)}</figcaption>\n</figure>",
    )


def _curves(curves: Image | Mapping[str, Image] | None) -> str:
    if curves is None:
        return ""
    named = curves if isinstance(curves, Mapping) else {"": curves}
    body = "\n".join(
        (f"<h3>{text(name)}</h3>\n" if name else "")
        + f'<figure class="curves">\n<img src="{png_source(image, name or "curves")}" '
        f'alt="{text(("Training curves, " + name) if name else "Training curves")}">\n</figure>'
        for name, image in named.items()
    )
    note = (
        '<p class="note">The bound of each arm in training, in nats; its ceiling is dashed. Where a curve leaves '
        "the range up to the ceiling by far, the axis is logarithmic there. Crosses, if any, mark values above their "
        "ceiling: single precision lost, not a bound.</p>"
    )
    return section("Training curves", f"{note}\n{body}") if named else ""


def _errors(results: Mapping[str, Any]) -> str:
    summary: Mapping[str, Mapping[str, Mapping[str, Any]]] = results.get("summary") or {}
    tables: list[str] = []
    for video, arms in summary.items():
        balls = max((len(row.get("per_ball_px") or ()) for row in arms.values()), default=0)
        head = ["arm", "mean (px)", "95% interval", "× supervised", "at 256 px"]
        head += [f"ball {ball + 1}" for ball in range(balls)] + ["matched (px)", "MCC"]
        supervised = (arms.get("supervised") or {}).get("mean_px")
        rows: list[list[str]] = []
        for arm in order_arms(arms):
            row = arms[arm]
            mean, low, high = row.get("mean_px"), row.get("low_px"), row.get("high_px")
            interval = f"{number(low)} to {number(high)}" if finite(low) and finite(high) else DASH
            each = list(row.get("per_ball_px") or ())
            each += [None] * (balls - len(each))
            rows.append(
                [
                    text(arm_title(arm)),
                    number(mean),
                    interval,
                    number(_ratio(mean, supervised)),
                    number(row.get("mean_256_px")),
                    *(number(value) for value in each),
                    number(row.get("matched_mean_px")),
                    number(row.get("mcc_mean"), 3),
                ]
            )
        tables.append(f"<h3>{text(video)}</h3>\n" + table(head, rows, left=1))
    if not tables:
        return ""
    seeds = results.get("seeds") or ()
    spread = (
        "With a single seed there is no interval. " if len(seeds) == 1 else "The interval is Student's t over seeds. "
    )
    note = (
        f'<p class="note">Mean distance on the held-out video, in pixels of the frames. {spread}'
        "“At 256 px” scales the mean to the paper's frame. “Matched” is the error without linear decoder: "
        "each latent is matched to one coordinate, with scale and shift only; MCC is the mean absolute correlation "
        "of the best such matching.</p>"
    )
    return section("Errors", "\n".join([*tables, note]))


def _bounds(results: Mapping[str, Any]) -> str:
    keys = ("bound_nats", "heldout_bound_nats")
    runs = [run for run in results.get("runs") or () if any(finite(run.get(key)) for key in keys)]
    if not runs:
        return ""
    head = ["video", "arm", "of", "kind", "seed", "training", "ceiling", "held out", "ceiling", "seconds"]
    order = order_arms(list(dict.fromkeys(run["arm"] for run in runs)))
    videos = list(dict.fromkeys(run["video"] for run in runs))
    runs.sort(key=lambda run: (videos.index(run["video"]), order.index(run["arm"]), run["seed"]))
    rows = [
        [
            text(run["video"]),
            text(arm_title(run["arm"])),
            text(_meaning(run.get("bound_of"))),
            text(run.get("bound_kind") or DASH),
            text(run["seed"]),
            number(run.get("bound_nats"), 4),
            number(run.get("ceiling_nats"), 4),
            number(run.get("heldout_bound_nats"), 4),
            number(run.get("heldout_ceiling_nats"), 4),
            number(run.get("seconds"), 3),
            text(_remark(run)),
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
    return section("Bounds", table(head, rows, left=4, right=int(remarks)) + "\n" + note)


def _remark(run: Mapping[str, Any]) -> str:
    pairs = (("training", "bound_nats", "ceiling_nats"), ("held out", "heldout_bound_nats", "heldout_ceiling_nats"))
    above = [name for name, bound, ceiling in pairs if _exceeds(run.get(bound), run.get(ceiling))]
    whose = "its ceiling" if len(above) == 1 else "their ceilings"
    return f"{' and '.join(above)} above {whose}: single precision lost, not a bound" if above else ""


def _exceeds(value: Any, ceiling: Any) -> bool:
    return finite(value) and finite(ceiling) and above_ceiling(value, ceiling)


def _ratio(value: Any, reference: Any) -> float | None:
    return value / reference if finite(value) and finite(reference) and reference > 0 else None


def _meaning(of: object) -> str:
    return {"elbo": "ELBO", "mi": "MI"}.get(str(of), str(of) if of else DASH)


def _failures(failed: Sequence[Mapping[str, Any]]) -> str:
    if not failed:
        return ""
    keys = ("video", "arm", "seed", "message")
    rows = [[text(run.get(key, DASH)) for key in keys] for run in failed]
    return section("Runs that did not finish", table(list(keys), rows, left=4))


def _arms_in(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(arm for arms in (results.get("summary") or {}).values() for arm in arms))
