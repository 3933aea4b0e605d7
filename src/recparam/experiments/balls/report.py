"""One self-contained HTML page about a finished experiment: figures, tables, curves, settings, versions."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recparam.experiments.balls.arm_style import arm_title, order_arms
from recparam.experiments.balls.curves import CEILING_TOLERANCE, above_ceiling
from recparam.plots.page import DASH, Image, duration, finite, interval, number, png_source, write_page

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
    if curves is not None and not isinstance(curves, Mapping):
        curves = {"": curves}
    arms = order_arms(list(results.get("arms") or _arms_in(results)))
    values = {
        "title": title,
        "label": results.get("label", ""),
        "preset": results.get("preset"),
        "facts": _facts(results),
        "seeds": results.get("seeds") or (),
        "arms": [(arm_title(arm), _ARMS.get(arm, "")) for arm in arms],
        "figures": _pictures(figures),
        "captions": captions or {},
        "tracks": _pictures(tracks or {}),
        "curves": _pictures(curves or {}),
        "errors": _errors(results),
        "bounds": _bounds(results),
        "tolerance": format(CEILING_TOLERANCE, "g"),
        "failed": [
            [run.get(key, DASH) for key in ("video", "arm", "seed", "message")] for run in results.get("failed") or ()
        ],
        "details": {
            "Settings": results.get("settings", {}) if settings is None else settings,
            "Versions": results.get("versions", {}) if versions is None else versions,
        },
    }
    return write_page(path, "experiments/balls/report.html", values)


def _pictures(images: Mapping[str, Image]) -> list[dict[str, str]]:
    return [{"name": name, "source": png_source(image, name or "curves")} for name, image in images.items()]


def _facts(results: Mapping[str, Any]) -> list[str]:
    facts: list[str] = []
    if results.get("size_px"):
        facts.append(f"frames of {results['size_px']} × {results['size_px']} px")
    if results.get("diameter_px"):
        facts.append(f"balls of {results['diameter_px']:g} px diameter")
    seeds = results.get("seeds") or ()
    if seeds:
        facts.append(("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds)))
    if finite(results.get("seconds")):
        facts.append(f"{duration(float(results['seconds']))} for the last command")
    return facts


def _errors(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    summary: Mapping[str, Mapping[str, Mapping[str, Any]]] = results.get("summary") or {}
    tables: list[dict[str, Any]] = []
    for video, arms in summary.items():
        balls = max((len(row.get("per_ball_px") or ()) for row in arms.values()), default=0)
        head = ["arm", "mean (px)", "95% interval", "× supervised", "at 256 px"]
        head += [f"ball {ball + 1}" for ball in range(balls)] + ["matched (px)", "MCC"]
        supervised = (arms.get("supervised") or {}).get("mean_px")
        rows: list[list[str]] = []
        for arm in order_arms(arms):
            row = arms[arm]
            mean = row.get("mean_px")
            each = list(row.get("per_ball_px") or ())
            each += [None] * (balls - len(each))
            rows.append(
                [
                    arm_title(arm),
                    number(mean),
                    interval(row.get("low_px"), row.get("high_px")),
                    number(_ratio(mean, supervised)),
                    number(row.get("mean_256_px")),
                    *(number(value) for value in each),
                    number(row.get("matched_mean_px")),
                    number(row.get("mcc_mean"), 3),
                ]
            )
        tables.append({"video": video, "head": head, "rows": rows})
    return tables


def _bounds(results: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("bound_nats", "heldout_bound_nats")
    runs = [run for run in results.get("runs") or () if any(finite(run.get(key)) for key in keys)]
    if not runs:
        return {}
    head = ["video", "arm", "of", "kind", "seed", "training", "ceiling", "held out", "ceiling", "seconds"]
    order = order_arms(list(dict.fromkeys(run["arm"] for run in runs)))
    videos = list(dict.fromkeys(run["video"] for run in runs))
    runs.sort(key=lambda run: (videos.index(run["video"]), order.index(run["arm"]), run["seed"]))
    rows = [
        [
            run["video"],
            arm_title(run["arm"]),
            _meaning(run.get("bound_of")),
            run.get("bound_kind") or DASH,
            run["seed"],
            *(number(run.get(key), 4) for key in ("bound_nats", "ceiling_nats")),
            *(number(run.get(key), 4) for key in ("heldout_bound_nats", "heldout_ceiling_nats")),
            number(run.get("seconds"), 3),
            _remark(run),
        ]
        for run in runs
    ]
    if any(row[-1] for row in rows):
        return {"head": [*head, "remark"], "rows": rows}
    return {"head": head, "rows": [row[:-1] for row in rows]}


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


def _arms_in(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(arm for arms in (results.get("summary") or {}).values() for arm in arms))
