"""The command line: it parses, calls and prints."""

import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from recparam.cli.dims import dims
from recparam.cli.experiments import EXPERIMENTS, print_end
from recparam.cli.fit import fit, with_config
from recparam.cli.messages import in_options, options_of
from recparam.cli.runs import compare, report, score, transform

if TYPE_CHECKING:
    from recparam.experiments.balls.settings import Run
    from recparam.experiments.outcome import Outcome

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def balls(
    *,
    preset: Literal["quick", "priors", "paper"] = "quick",
    arms: tuple[str, ...] | None = None,
    videos: tuple[str, ...] = ("black", "clutter"),
    seeds: int = 1,
    seed: int = 0,
    starts: int = 2,
    size: int | None = None,
    diameter: float | None = None,
    frames: int | None = None,
    epochs: int | None = None,
    batch_size: int = 30,
    out: Path | None = None,
    jobs: int | None = None,
) -> int:
    """Run the paper's moving-balls experiment: data, training, Figure 1 and a report.

    An interrupted run resumes when you repeat the command.

    Args:
        preset: quick is the small version (128x128 frames, 20 epochs, minutes); priors compares richer priors (64x64
            frames, 30 epochs); paper is the paper's size (256x256, 30 epochs).
        arms: Which arms to run, of supervised, gaussian, linear, recipe, steps, velocity, velocity-steps, untrained
            and constant; None: the preset's.
        videos: Which backgrounds to run.
        seeds: Number of seeds.
        seed: The first seed.
        starts: Starts of each arm with a richer prior; the evidence chooses one.
        size: Width of the frames in pixels; the balls keep their proportion where --diameter is not set.
        diameter: Diameter of the balls in pixels.
        frames: Frames per video.
        epochs: Passes over the training video.
        batch_size: Pairs of consecutive frames per step.
        out: Output folder; runs/balls-PRESET if not given.
        jobs: Parallel processes of one thread; one per core, or on a GPU a single one, if not given. 0 or 1: no others.
    """
    from recparam.experiments.balls.settings import make_settings

    settings = make_settings(
        preset,
        size=size,
        diameter=diameter,
        frames=frames,
        epochs=epochs,
        batch_size=batch_size,
        videos=_split(videos),
        arms=None if arms is None else _split(arms),
        seeds=seeds,
        seed=seed,
        starts=starts,
    )
    from recparam.experiments.balls.run import run_experiment

    return _print_outcome(run_experiment(settings, out or Path("runs") / f"balls-{preset}", jobs=jobs))


def experiments() -> int:
    """Run an experiment on data with a known truth, by its name; `recparam experiments --help` lists them."""
    return main(["experiments", "--help"])


def version() -> int:
    """Print the version."""
    import recparam

    print(recparam.__version__)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after the program's name; by default those of this process.

    Returns:
        0; 1 if a run failed and the others are complete; 2 for input that cannot be used; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command, rest = (words + [""])[0], words[1:]
    program = "recparam"
    ours: dict[str, Callable[..., int]] = {
        "fit": fit, "dims": dims, "transform": transform, "score": score, "compare": compare, "report": report
    }
    options = options_of(ours[command]) if command in ours else set[str]()
    try:
        commands = {
            **ours,
            "fit": with_config(fit, rest) if command == "fit" else fit,
            "balls": balls,
            "experiments": experiments,
            "version": version,
        }
        if command == "experiments":
            program, words, commands = "recparam experiments", rest, {"balls": balls, **EXPERIMENTS}
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)  # each once, as a line of its own
            warnings.showwarning = partial(_show_warning, options)
            return tyro.extras.subcommand_cli_from_dict(
                commands, prog=program, description="Recognition-parameterised models.", args=words
            )
    except (ValueError, OSError) as error:
        print(f"recparam: {in_options(_one_line(error), options)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as stopped:
        resumes = command in ("balls", "experiments")
        resume = "Run the same command to resume." if resumes else str(stopped) or "Nothing was written."
        print(f"\nInterrupted. {resume}", file=sys.stderr)
        return INTERRUPTED


def _split(names: Sequence[str]) -> list[str]:
    """Accept `a b` and `a,b`."""
    return [part for name in names for part in name.split(",") if part]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _show_warning(options: Collection[str], message: Warning | str, *_where: object) -> None:
    print(f"recparam: warning: {in_options(' '.join(str(message).split()), options)}", file=sys.stderr)


def _print_outcome(outcome: "Outcome[Run]") -> int:
    from rich.console import Console
    from rich.table import Table

    from recparam.evaluation import interval_text

    console = Console()
    results: dict[str, Any] = outcome.results
    table = Table(title="Mean error on a fresh video", title_justify="left")
    table.add_column("arm")
    for video in results["videos"]:
        table.add_column(f"{video}, px", justify="right")
        table.add_column("scaled to 256 px", justify="right")
    for arm in results["arms"]:
        cells: list[str] = []
        for video in results["videos"]:
            entry = results["summary"][video].get(arm)
            if entry is None:
                cells += ["-", "-"]
                continue
            error = interval_text(entry["mean_px"], entry["low_px"], entry["high_px"], 2)
            cells += [error, f"{entry['mean_256_px']:.1f}"]
        table.add_row(arm, *cells)
    if results["arms"]:
        console.print(table)
    console.print(results["label"], highlight=False)
    return print_end(console, outcome)
