"""The command that fits a model to people's own data: it parses, calls and prints."""

import shlex
from collections.abc import Callable
from pathlib import Path

from recparam.cli.runs import ALONE, AS_IT_IS, BesideFiles, DataFiles, ReadingOptions, Switch, print_scored


def fit(
    data: DataFiles,
    /,
    *,
    out: Path | None = None,
    config: Path | None = None,
    prior: str | None = None,
    encoder: str | None = None,
    encoder_prime: str | None = None,
    latent_dim: int | None = None,
    lag: tuple[int, ...] | None = None,
    seconds: tuple[float, ...] | None = None,
    rate: float | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    dropout: tuple[float, ...] | None = None,
    restarts: int | None = None,
    validation_fraction: float | None = None,
    bank_size: int | None = None,
    seed: int | None = None,
    accelerator: str | None = None,
    devices: int | None = None,
    precision: str | None = None,
    beside: BesideFiles = ALONE,
    reading: ReadingOptions = AS_IT_IS,
    resume: Switch = False,
    overwrite: Switch = False,
    json: Switch = False,
) -> int:
    """Fit a model to your own data: a recording, a table, a video or a folder of images.

    The end of each session is held out; the bound on it is printed with its kind and its ceiling. OUT is written when
    the model is whole; until then OUT.partial holds what is needed to go on after an interruption.

    For example:
    - recparam fit recording.npy --lag 1 --latent-dim 2 --out run
    - recparam fit monday.csv tuesday.csv --lag 1 2 3 --restarts 4
    - recparam fit video.mp4 --prior gaussian --seconds 0.1
    - recparam fit trials.csv --sessions-key trial --window 10
    - recparam fit neurons.npy --data-prime pose.npy
    - recparam fit recording.npy --out run --resume
    - recparam fit --config run/run.yaml --seed 1 --out another

    Args:
        data: Files: npy, npz, csv, parquet, h5, mat, video, or a folder of images. Several are sessions.
        out: Folder to write; runs/NAME, of the first file, if not given.
        config: run.yaml of another run: its data and settings, but for those given here.
        prior: How x' follows x: gaussian, linear, cosine, velocity, ar2, joint-gaussian; gaussian if not given.
        encoder: auto (by the shape of a row), mlp, temporal, conv, centre-of-mass; auto if not given.
        encoder_prime: Likewise of the second modality; auto if not given.
        latent_dim: Number of latents; 2 if not given.
        lag: Rows from x to x', several are pooled; 1, of frames 1 2 3, of windows their rows, unless given.
        seconds: Time from x to x' instead, by --rate or by the times in the file.
        rate: Rows per second.
        max_steps: Steps of training at most; 1500, for frames 500, unless given.
        batch_size: Pairs per step; 512, for frames 128, unless given.
        learning_rate: Of the optimiser; 0.003 if not given.
        dropout: Share of a row's entries hidden in training, several in turn; 0.0 0.3, of frames 0.3, if not given.
        restarts: Starts, of which the one with the best held-out bound goes on; 6 if not given.
        validation_fraction: Part of each session, at its end, that is held out; 0.2 if not given.
        bank_size: Fitted pairs to score against, whose logarithm a score can reach; 2048 if not given.
        seed: The same seed gives the same model; 0 unless given.
        accelerator: auto, cpu, gpu; auto if not given.
        devices: One device; 1 if not given.
        precision: Of the steps, 32-true, bf16-mixed or 16-mixed; 32-true if not given.
        beside: Files that go with DATA, row by row.
        reading: How files become rows.
        resume: Go on with a fit that was interrupted; give the same command.
        overwrite: Replace a run that is there, or an interrupted fit.
        json: Print JSON.
    """
    from recparam.runs.config import Config
    from recparam.runs.folder import check_out

    settings = {
        "prior": prior,
        "encoder": encoder,
        "encoder_prime": encoder_prime,
        "latent_dim": latent_dim,
        "lag": lag[0] if lag and len(lag) == 1 else lag,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "dropout": dropout[0] if dropout and len(dropout) == 1 else dropout,
        "restarts": restarts,
        "validation_fraction": validation_fraction,
        "bank_size": bank_size,
        "random_state": seed,
        "accelerator": accelerator,
        "devices": devices,
        "precision": precision,
    }
    base = Config.read(config) if config else Config((), AS_IT_IS, {})
    chosen = base.under(data, reading, settings, beside)
    out = out or Path("runs") / (chosen.data[0].stem if chosen.data else "run")
    partial = check_out(out, overwrite=overwrite, resume=resume)
    from recparam.runs.fits import Fit, lag_in_rows

    for name, given in (("--data-prime", chosen.beside.data_prime), ("--nearest-key", chosen.reading.nearest_key)):
        if given and (lag or seconds):
            raise ValueError(f"Expected {name}, --lag or --seconds, each of which says what a pair is; got several.")
    recording = chosen.reading.rows(chosen.data, chosen.beside)
    if seconds is not None or rate is not None:
        rows = lag_in_rows(recording, lag=lag, seconds=seconds, rate=rate)
        chosen = chosen.under((), AS_IT_IS, {"lag": rows if len(rows) > 1 else rows[0]})
    say: Callable[[str], None] = (lambda line: None) if json else print
    fitted = Fit(chosen, recording, say=say).run(partial, resume=resume)
    if not json:
        print_scored(fitted.scored, what="held out")
    fitted.save(out, partial=partial, overwrite=overwrite)
    if json:
        from recparam.utils.storage import json_text

        print(json_text({"run": out, "report": out / "report.html", **fitted.facts()}))
        return 0
    print(f"Wrote {out}. Look at {out / 'report.html'}, or go on with:")
    words = [str(out), *map(str, chosen.data), *chosen.beside.words()]
    print(f"recparam transform {shlex.join(words)} -o latents.npz")
    return 0
