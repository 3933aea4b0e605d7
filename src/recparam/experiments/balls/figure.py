"""Figure 1, the tracks and the report, drawn from the files of finished runs alone."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recparam.experiments.balls.arms import COUPLED_ARMS, make_video
from recparam.experiments.balls.curves import draw_curves
from recparam.experiments.balls.figure1 import Figure1Data, draw_figure1, figure1_caption
from recparam.experiments.balls.report import write_report
from recparam.experiments.balls.settings import RICHER_ARMS, TEST_SEED_OFFSET, Run, Settings
from recparam.experiments.balls.tracks import Tracks, draw_tracks, write_animation
from recparam.experiments.balls.training import start_folder
from recparam.plots.style import save_figure

CONSECUTIVE = 4
"""Frames of panel A."""

SEGMENT = 40
"""Frames of the tracks."""

_PRIORS = {
    "recipe": "stays near",
    "gaussian": "stays near",
    "steps": "each map steps by r",
    "velocity": "keeps its velocity",
    "velocity-steps": "velocity and steps",
}

_DRAWN_BALL = 0  # the one whose density a run stores
_COLOUR_NAMES: dict[tuple[int, ...], str] = {(255, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue"}


def draw_all(settings: Settings, results: dict[str, Any], out: Path) -> list[Path]:
    """Draw Figure 1 of each video, the tracks where a richer prior was run, and write the report.

    Args:
        settings: of the experiment.
        results: content of `results.json`.
        out: folder of the experiment.

    Returns:
        The files written.
    """
    files: list[Path] = []
    figures: dict[str, Path] = {}
    captions: dict[str, str] = {}
    drawn: dict[str, Path] = {}
    curves: dict[str, bytes] = {}
    for video in results["videos"]:
        data = figure_data(settings, results, out, video)
        png, pdf = save_figure(draw_figure1(data), out / f"figure1-{video}")
        figures[video], captions[video] = png, figure1_caption(data)
        files += [png, pdf]
        if (tracks := tracks_of(settings, results, out, video)) is not None:
            png, pdf = save_figure(draw_tracks(tracks), out / f"tracks-{video}")
            drawn[video] = png
            files += [png, pdf, write_animation(tracks, out / f"tracks-{video}.gif")]
        curves[video] = _png(draw_curves(histories(results, out, video)))
    page = write_report(
        out / "report.html",
        title="Moving balls",
        results=results,
        figures=figures,
        captions=captions,
        tracks=drawn,
        curves=curves,
    )
    return [*files, page]


def tracks_of(settings: Settings, results: dict[str, Any], out: Path, video: str) -> Tracks | None:
    """Gather where the maps of the Gaussian and the richer priors are, or None where no richer prior was run."""
    seed = shown_seed(results, video)
    runs = {run["arm"]: run for run in results["runs"] if (run["video"], run["seed"]) == (video, seed)}
    richer = [arm for arm in RICHER_ARMS if arm in runs]
    if not richer:
        return None
    arms = [arm for arm in ("recipe", "gaussian") if arm in runs][:1] + richer
    arrays = {arm: read_arrays(out / Run(video, seed, arm).folder) for arm in arms}
    count = min(SEGMENT, settings.frames)

    def note(arm: str) -> str:
        return f"{_PRIORS[arm]}\nMCC {runs[arm]['mcc']:.3f}, {runs[arm]['evidence_nats']:.2f} nats"

    return Tracks(
        title=f"{video}: where each map is, without labels",
        frames=make_video(settings, video, seed + TEST_SEED_OFFSET).frames[:count],
        true=arrays[arms[0]]["centres"][:count],
        places={arm: arrays[arm]["matched"][:count] for arm in arms},
        notes={arm: note(arm) for arm in arms},
    )


def histories(
    results: dict[str, Any], out: Path, video: str
) -> dict[str, list[tuple[int, float | None, float | None]]]:
    """Read the training curves of the arms that have a bound in nats, for the seed that Figure 1 shows."""
    seed = shown_seed(results, video)
    runs = [run for run in results["runs"] if (run["video"], run["seed"]) == (video, seed)]
    return {run["arm"]: read_history(_folder(out, run)) for run in runs if run["arm"] in COUPLED_ARMS}


def _folder(out: Path, run: dict[str, Any]) -> Path:
    """Where the history of a run is: with its chosen start, if it had several."""
    found = Run(run["video"], run["seed"], run["arm"])
    return out / found.folder if run["start"] is None else start_folder(out / found.folder, found, run["start"])


def shown_seed(results: dict[str, Any], video: str) -> int:
    """Return the first of the seeds with the most arms: one seed for all panels."""
    seeds = [run["seed"] for run in results["runs"] if run["video"] == video]
    return min(seeds, key=lambda seed: (-seeds.count(seed), seed))


def figure_data(settings: Settings, results: dict[str, Any], out: Path, video: str) -> Figure1Data:
    """Gather what Figure 1 of one video shows; all panels but C from one seed."""
    runs = [run for run in results["runs"] if run["video"] == video]
    seed = shown_seed(results, video)
    arrays = {run["arm"]: read_arrays(out / Run(video, seed, run["arm"]).folder) for run in runs if run["seed"] == seed}
    fresh = make_video(settings, video, seed + TEST_SEED_OFFSET)
    centres = np.asarray(fresh.centres)
    frame = next((int(found["density_frame"]) for found in arrays.values() if "density_frame" in found), 0)
    first = min(frame, len(centres) - CONSECUTIVE)
    return Figure1Data(
        video=video,
        label=f"{settings.label}; panels A, B, D and E: seed {seed}",
        frames=fresh.frames[first : first + CONSECUTIVE],
        frame_centres=centres[first : first + CONSECUTIVE],
        first_frame=first,
        ball_names=[_COLOUR_NAMES.get(colour, f"RGB {colour}") for colour in fresh.colours],
        true=centres,
        decoded={arm: found["decoded"] for arm, found in arrays.items()},
        errors={
            arm: [run["error_px"] for run in runs if run["arm"] == arm]
            for arm in dict.fromkeys(run["arm"] for run in runs)
        },
        current_frame=fresh.frames[frame],
        current_index=frame,
        ball=_DRAWN_BALL,
        current_centre=centres[frame, _DRAWN_BALL],
        next_centre=centres[frame + 1, _DRAWN_BALL],
        predicted={
            arm: {"uniform": found["density_uniform"], "marginal": found["density_marginal"]}
            for arm, found in arrays.items()
            if "density_uniform" in found
        },
        size_px=settings.size,
    )


def read_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a finished run."""
    with np.load(folder / "arrays.npz") as stored:
        return {name: stored[name] for name in stored.files}


def read_history(folder: Path) -> list[tuple[int, float | None, float | None]]:
    """Read epoch, bound and ceiling in nats from the history of a run; empty if it was not trained."""
    path = folder / "history.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            (int(row["epoch"]), _number(row.get("bound_nats")), _number(row.get("ceiling_nats")))
            for row in csv.DictReader(file)
        ]


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
