"""The commands for people's own data: each parses, calls and prints."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from recparam.runs.reading import Reading

if TYPE_CHECKING:
    from recparam.runs.scores import Compared, Scored

_RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
_RunFolders = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
_DataFiles = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA...")]
_OutFile = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
_Reading = Annotated[Reading, tyro.conf.arg(name="")]
_Switch = tyro.conf.FlagCreatePairsOff[bool]
_AS_IT_IS = Reading()


def fit(
    data: _DataFiles,
    /,
    *,
    out: Path | None = None,
    prior: str = "gaussian",
    encoder: str = "auto",
    latent_dim: int = 2,
    lag: tuple[int, ...] = (1,),
    max_steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float = 3e-3,
    dropout: tuple[float, ...] = (0.0, 0.3),
    restarts: int = 6,
    validation_fraction: float = 0.2,
    bank_size: int = 2048,
    seed: int = 0,
    accelerator: str = "auto",
    reading: _Reading = _AS_IT_IS,
    overwrite: _Switch = False,
) -> int:
    """Fit a model to your own data: a recording, a table, a video or a folder of images.

    The end of each session is held out; the bound on it is printed with its kind and its ceiling. Nothing is
    written before the model is whole.

    For example:
    - recparam fit recording.npy --lag 1 --latent-dim 2 --out run
    - recparam fit monday.csv tuesday.csv --lag 1 2 3 --restarts 4
    - recparam fit video.mp4 --prior gaussian

    Args:
        data: Files: npy, npz, csv, parquet, h5, mat, video, or a folder of images. Several are sessions.
        out: Folder to write; runs/NAME, of the first file, if not given.
        prior: How x' follows x: gaussian, linear, cosine, joint-gaussian.
        encoder: auto (by the shape of a row), mlp, conv, centre-of-mass.
        latent_dim: Number of latents.
        lag: Rows from x to x'; several are pooled.
        max_steps: Steps of training at most; 1500 if not given.
        batch_size: Pairs per step; 512, and 128 for frames, if not given.
        learning_rate: Of the optimiser.
        dropout: Share of the entries of a row hidden in training; the starts take several in turn.
        restarts: Starts, of which the one with the best held-out bound goes on.
        validation_fraction: Part of each session, at its end, that is held out.
        bank_size: Fitted pairs that scores are computed against; their logarithm is what a score can reach.
        seed: The same seed gives the same model.
        accelerator: auto, cpu, gpu.
        reading: How files become rows.
        overwrite: Replace a run that is there.
    """
    from recparam.runs.folder import check_out

    out = out or Path("runs") / (data[0].stem if data else "run")
    check_out(out, overwrite=overwrite)
    recording = reading.read(data)
    from recparam.data.pairs import consecutive
    from recparam.estimator import RPMEstimator
    from recparam.estimator.fitting import split_off
    from recparam.runs.folder import save_run
    from recparam.runs.scores import score_pairs
    from recparam.training import TrainingDiverged

    step = lag[0] if len(lag) == 1 else lag
    estimator = RPMEstimator(
        prior=prior,
        encoder=encoder,
        latent_dim=latent_dim,
        lag=step,
        max_steps=max_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        dropout=dropout,
        restarts=restarts,
        validation_fraction=validation_fraction,
        bank_size=bank_size,
        random_state=seed,
        accelerator=accelerator,
        progress=True,
    )
    fitted, held_out = split_off(consecutive(recording, lag=step), validation_fraction)
    for line in recording.notes:
        print(line)
    print(f"Data: {recording!r}")
    print(f"Pairs: {len(fitted)} to fit, {len(held_out)} held out at the end of each session; lag {_words(lag)}")
    try:
        estimator.fit(recording)
    except TrainingDiverged as error:
        raise ValueError(
            f"Expected a bound that stays finite; got another at step {error.step}. Lower --learning-rate (now "
            f"{learning_rate:g}), or look for extreme rows."
        ) from error
    print(estimator.describe())
    scored = score_pairs(estimator, held_out)
    _print_scored(scored, what="held out")
    save_run(
        out,
        estimator,
        recording,
        held_out=held_out,
        bound=scored.facts(),
        reading=reading,
        files=data,
        overwrite=overwrite,
    )
    print(f"Wrote {out}. Look at {out / 'report.html'}, or go on with:")
    print(f"recparam transform {shlex.join([str(out), *map(str, data)])} -o latents.npz")
    return 0


def transform(
    run: _RunFolder,
    data: _DataFiles,
    /,
    *,
    out: _OutFile,
    std: _Switch = False,
    reading: _Reading = _AS_IT_IS,
) -> int:
    """Write the latents of data: one row per row of the data.

    For example:
    - recparam transform run recording.npy -o latents.npz
    - recparam transform run monday.csv tuesday.csv -o latents.csv

    Args:
        run: Folder that recparam fit wrote.
        data: Files, read as those of the fit were.
        out: File to write: npz (arrays z, sessions, times), csv or parquet (columns z1, z2, ...).
        std: Write standard deviations too.
        reading: How files become rows.
    """
    from recparam.runs.files import check_latents_path, write_latents
    from recparam.runs.folder import load_run

    check_latents_path(out)
    loaded = load_run(run)
    recording = loaded.reading(reading).read(data)
    z, deviation = loaded.estimator.transform(recording, return_std=True)
    write_latents(out, z, recording=recording, std=deviation if std else None)
    print(f"Wrote {out}: {z.shape[1]} latents of {z.shape[0]} rows.")
    return 0


def score(
    run: _RunFolder,
    data: _DataFiles,
    /,
    *,
    json: _Switch = False,
    reading: _Reading = _AS_IT_IS,
) -> int:
    """Print the ELBO on data, with its kind, its ceiling and a block-bootstrap interval.

    Of the data of the fit only the rows held out then are scored.

    For example:
    - recparam score run recording.npy
    - recparam score run another.npy --json

    Args:
        run: Folder that recparam fit wrote.
        data: Files, read as those of the fit were.
        json: Print JSON.
        reading: How files become rows.
    """
    from recparam.runs.folder import load_run
    from recparam.runs.scores import pairs_to_score, score_pairs
    from recparam.storage import json_text

    loaded = load_run(run)
    recording = loaded.reading(reading).read(data)
    pairs, left_out = pairs_to_score([loaded], recording)
    scored = score_pairs(loaded.estimator, pairs)
    if json:
        print(json_text({"run": run, "data": data, "only_held_out": left_out, **scored.facts()}))
    else:
        _print_scored(scored, what=_whose(left_out))
    return 0


def compare(
    runs: _RunFolders,
    /,
    *,
    data: tuple[Path, ...],
    json: _Switch = False,
    reading: _Reading = _AS_IT_IS,
) -> int:
    """Score runs side by side on the same pairs, and their differences from the first.

    Intervals of differences are paired: what makes a stretch of the data hard for all runs cancels. Rows that a run
    was trained on are left out for all.

    For example:
    - recparam compare run1 run2 --data recording.npy
    - recparam compare gaussian linear cosine --data another.npy --json

    Args:
        runs: Folders that recparam fit wrote, at least two, of one lag.
        data: Files, read as those of the first run's fit were.
        json: Print JSON.
        reading: How files become rows.
    """
    from recparam.runs.folder import load_run
    from recparam.runs.scores import compare_runs, pairs_to_score
    from recparam.storage import json_text

    if len(runs) < 2:
        raise ValueError(f"Expected at least two runs to compare; got {len(runs)}. For one, use recparam score.")
    loaded = [load_run(folder) for folder in runs]
    recording = loaded[0].reading(reading).read(data)
    pairs, left_out = pairs_to_score(loaded, recording)
    compared = compare_runs(loaded, pairs)
    if json:
        entries = [entry.facts() for entry in compared]
        print(json_text({"data": data, "only_held_out": left_out, "runs": entries}))
    else:
        _print_compared(compared, what=_whose(left_out))
    return 0


def report(run: _RunFolder, /, *, labels: Path | None = None, key: str | None = None) -> int:
    """Write RUN/report.html again, its latents coloured by labels too.

    For example:
    - recparam report run
    - recparam report run --labels behaviour.csv
    - recparam report run --labels recording.npz --key position

    Args:
        run: Folder that recparam fit wrote.
        labels: File with a row of numbers per row of the data of the fit: npy, npz, csv, ...
        key: One array or column of that file; all that have so many rows if not given.
    """
    from recparam.runs.folder import load_run, write_page_of

    print(f"Wrote {write_page_of(load_run(run), labels=labels, key=key)}.")
    return 0


def _words(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _whose(left_out: bool) -> str:
    return "held out when the model was fitted" if left_out else "in the data"


def _print_scored(scored: "Scored", *, what: str) -> None:
    print(scored.bound)
    if scored.interval is None:
        print(f"{scored.pairs} pairs {what}: too few for an interval")
    else:
        (_, low, high), block, _ = scored.interval
        print(f"95 % interval {low:.3f} to {high:.3f} nats: {scored.pairs} pairs {what}, in blocks of {block}")


def _print_compared(compared: "Sequence[Compared]", *, what: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"ELBO - const, nats per pair; {compared[0].scored.pairs} pairs {what}", title_justify="left")
    for heading in ("run", "kind"):
        table.add_column(heading)
    for heading in ("value (95 % interval)", "ceiling", "less the first (paired)"):
        table.add_column(heading, justify="right")
    for entry in compared:
        facts = entry.facts()
        table.add_row(
            escape(str(entry.run.folder)),
            facts["kind"],
            _with_interval(facts["value_nats"], facts["low_nats"], facts["high_nats"]),
            "-" if facts["ceiling_nats"] is None else f"{facts['ceiling_nats']:.3f}",
            _with_interval(facts["difference_nats"], facts["difference_low_nats"], facts["difference_high_nats"]),
        )
    Console().print(table)


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
