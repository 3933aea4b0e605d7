"""The commands that run experiments on a grid of arms and seeds: each parses, calls and prints."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from recparam.experiments.outcome import Outcome

INCOMPLETE = 1


def few_shot(
    *,
    out: Path = Path("runs/few-shot"),
    seeds: int = 5,
    seed: int = 0,
    latent_dim: int = 16,
    steps: int = 600,
    starts: int = 2,
    draws: int = 30,
    shift: float = 2.0,
    turn: float = 30.0,
    jobs: int | None = None,
) -> int:
    """Handwritten digits from one and five labels per class, on latents of several priors (docs/few-shot.md).

    Args:
        out: Output folder; an interrupted run resumes when you repeat the command.
        seeds: Number of seeds.
        seed: The first seed.
        latent_dim: Number of latents.
        steps: Steps of training, at most.
        starts: Starts from other weights, of which the held-out bound chooses one.
        draws: Sets of labelled examples to average over.
        shift: The largest move of a view, pixels.
        turn: The largest turn of a view, degrees.
        jobs: Parallel processes of one thread; one per core if not given. 0 or 1: no others.
    """
    from recparam.experiments.few_shot import few_shot_experiment
    from recparam.experiments.few_shot.settings import Settings
    from recparam.experiments.grid import run_grid
    from recparam.experiments.outcome import seeds_from

    settings = Settings(latent_dim=latent_dim, steps=steps, starts=starts, draws=draws, shift=shift, turn=turn)
    outcome = run_grid(few_shot_experiment(settings), seeds=seeds_from(seed, seeds), out=out, jobs=jobs)
    columns = {
        "nearest_mean_1": "1 label",
        "nearest_mean_5": "5 labels",
        "nearest_mean_1_moved": "1 label, moved",
        "nearest_mean_5_moved": "5 labels, moved",
        "elbo_nats": "evidence, nats",
    }
    code = print_outcome(outcome, columns, title="Share of held-out digits right, by the nearest mean", digits=2)
    print_ranks(outcome, {name: columns[name] for name in list(columns)[:-1]})
    return code


def rat(
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    /,
    *,
    counts: str = "counts",
    position: str = "position_m",
    out: Path = Path("runs/rat"),
    seeds: int = 5,
    seed: int = 0,
    lag: int = 1,
    latent_dim: int = 2,
    steps: int = 800,
    starts: int = 4,
    batch_size: int = 256,
    jobs: int | None = None,
) -> int:
    """Priors of motion on a recording of spike counts: held-out evidence, and decoding of position (docs/rat.md).

    Args:
        file: An .npz file of counts (N, units), rows in order of time, and positions (N, P), which are for scoring.
        counts: Name of the array of counts.
        position: Name of the array of positions.
        out: Output folder; an interrupted run resumes when you repeat the command.
        seeds: Number of seeds.
        seed: The first seed.
        lag: Rows between the observations of a window.
        latent_dim: Number of latents.
        steps: Steps of training, at most.
        starts: Starts from other weights, of which the evidence on a validation block chooses one.
        batch_size: Windows per step.
        jobs: Parallel processes of one thread; one per core if not given. 0 or 1: no others.
    """
    from recparam.experiments.grid import run_grid
    from recparam.experiments.outcome import seeds_from
    from recparam.experiments.rat import rat_experiment
    from recparam.experiments.rat.settings import Settings

    settings = Settings(lag=lag, latent_dim=latent_dim, steps=steps, starts=starts, batch_size=batch_size)
    experiment = rat_experiment(settings, file, counts=counts, position=position)
    outcome = run_grid(experiment, seeds=seeds_from(seed, seeds), out=out, jobs=jobs)
    columns = {"r2_1": "R2, first", "r2_2": "R2, second", "evidence_nats": "evidence, nats"}
    code = print_outcome(outcome, columns, title="Held-out decoding of position, and evidence")
    orders = outcome.results.get("orders", {})
    for name, text in {"evidence_nats": "evidence", "r2": "decoding"}.items():
        if orders.get(name):
            print(f"By {text}: {' > '.join(orders[name])}")
    return code


def identifiability(
    *,
    worlds: tuple[str, ...] = ("sphere-3", "sphere-10", "box-laplace", "box-normal"),
    out: Path = Path("runs/identifiability"),
    seeds: int = 3,
    seed: int = 0,
    steps: int = 600,
    batch_size: int = 512,
    hidden: tuple[int, ...] = (128, 128, 128),
    jobs: int | None = None,
) -> int:
    """Do priors that match the world find its latents? Mixed latents of known worlds (docs/identifiability.md).

    Args:
        worlds: Of sphere-3, sphere-10, box-laplace and box-normal.
        out: Output folder; an interrupted run resumes when you repeat the command.
        seeds: Number of seeds.
        seed: The first seed.
        steps: Steps of training, each on new pairs; sphere-10 takes five times as many.
        batch_size: Pairs per step.
        hidden: Widths of the encoder's hidden layers.
        jobs: Parallel processes of one thread; one per core if not given. 0 or 1: no others.
    """
    from recparam.experiments.grid import run_grid
    from recparam.experiments.identifiability import identifiability_experiment
    from recparam.experiments.identifiability.settings import Settings
    from recparam.experiments.outcome import seeds_from

    names = tuple(dict.fromkeys(part for name in worlds for part in name.split(",") if part))
    settings = Settings(worlds=names, steps=steps, batch_size=batch_size, hidden=hidden)
    outcome = run_grid(identifiability_experiment(settings), seeds=seeds_from(seed, seeds), out=out, jobs=jobs)
    columns = {
        "r2": "linear R^2",
        "mcc": "MCC",
        "evidence_nats": "evidence, nats",
        "behind_matching_nats": "behind the matching prior",
        "information_nats": "information of the world",
    }
    return print_outcome(outcome, columns, title="Latents found, on held-out pairs", digits=4)


EXPERIMENTS: dict[str, Callable[..., int]] = {
    "few-shot": few_shot,
    "rat": rat,
    "identifiability": identifiability,
}
"""By the name that follows `recparam experiments`."""


def print_outcome(outcome: "Outcome[Any]", columns: Mapping[str, str], *, title: str, digits: int = 3) -> int:
    """Print a table with a row for each arm, the files and the failures.

    Args:
        outcome: Of the experiment.
        columns: Headings of the numbers to print, by their names in the results.
        title: Of the table.
        digits: After the point.

    Returns:
        The exit code: 0, or 1 if a run failed.
    """
    from rich.console import Console
    from rich.table import Table

    from recparam.evaluation import interval_text

    console = Console()
    table = Table(title=title, title_justify="left")
    table.add_column("arm")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for arm, numbers in outcome.results["summary"].items():
        cells = [interval_text(*numbers[name].values(), digits=digits) if name in numbers else "-" for name in columns]
        table.add_row(arm, *cells)
    if outcome.results["arms"]:
        console.print(table)
    return print_end(console, outcome)


def print_ranks(outcome: "Outcome[Any]", columns: Mapping[str, str]) -> None:
    """Print how the evidence and other numbers rank the arms; `columns` has the headings by name."""
    ranks = outcome.results.get("evidence_ranks", {})
    found = [
        f"{text} {ranks[name]['mean']:.2f} ({ranks[name]['lowest']:.2f} to {ranks[name]['highest']:.2f})"
        for name, text in columns.items()
        if ranks.get(name)
    ]
    if found:
        print(f"Spearman's rank correlation with the evidence over the priors (seeds): {'; '.join(found)}")


def print_end(console: "Console", outcome: "Outcome[Any]") -> int:
    """Print the files and the failures, and return the exit code: 0, or 1 if a run failed."""
    for path in outcome.files:
        console.print(str(path), highlight=False, soft_wrap=True)
    for run, message in outcome.failed.items():
        console.print(f"failed: {run}: {message}", highlight=False, markup=False, soft_wrap=True)
    return INCOMPLETE if outcome.failed else 0
