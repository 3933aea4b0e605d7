"""The command that fits a model to your own data: it parses, calls and prints."""

import functools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from recparam.cli.messages import in_options, options_of
from recparam.cli.runs import Files, PositionalFiles, Switch, print_scored
from recparam.estimator.settings import Settings
from recparam.runs.reading import Reading

if TYPE_CHECKING:
    from recparam.data.recording import Recording
    from recparam.runs.config import Config

_AnySettings = TypeVar("_AnySettings", bound=Settings)


@dataclass(kw_only=True, eq=False)
class _Settings(Settings):
    random_state: Annotated[
        int | None, tyro.conf.arg(name="seed", help="The same seed gives the same model. None: another every time.")
    ] = 0


def fit(
    *,
    files: Files,
    out: Path | None = None,
    config: Path | None = None,
    seconds: tuple[float, ...] | None = None,
    rate: float | None = None,
    settings: Annotated[_Settings, tyro.conf.arg(name="")],
    reading: Annotated[Reading, tyro.conf.arg(name="")],
    resume: Switch = False,
    overwrite: Switch = False,
    json: Switch = False,
) -> int:
    """Fit a model to your own data: a recording, a table, a video or a folder of images.

    The end of each session is held out; the bound on it is printed with its kind and its ceiling. OUT is written when
    the model is complete; until then OUT.partial holds a checkpoint, from which --resume continues.

    For example:
    - recparam fit recording.npy --lag 1 --latent-dim 2 --out run
    - recparam fit monday.csv tuesday.csv --lag 1 2 3 --restarts 4
    - recparam fit video.mp4 --prior gaussian --seconds 0.1
    - recparam fit trials.csv --sessions-key trial --window 11
    - recparam fit timed.csv --times-key t --seconds 0.1
    - recparam fit trials.npy --dims trial,time,channel
    - recparam fit spikes.npz --bin 0.05
    - recparam fit neurons.npy --data-prime pose.npy
    - recparam fit spikes.npz --bin 0.05 --data-prime pose.csv --times-key-prime t --one-clock mean
    - recparam fit recording.npy --out run --resume
    - recparam fit --config run/run.yaml --seed 1 --out another

    Args:
        files: The data.
        out: Folder to write. None: runs/NAME, of the first file.
        config: run.yaml of another run; its data and settings become the defaults of this command.
        seconds: Time from x to x' in place of --lag, by --rate or by the times in the file.
        rate: Rows per second.
        settings: Of the estimator.
        reading: How files become rows.
        resume: Resume an interrupted fit from its checkpoint; repeat the command with this option.
        overwrite: Replace a run, or the checkpoint of an interrupted fit.
        json: Print JSON.
    """
    from recparam.runs.folder import check_out

    out = out or Path("runs") / (files.data[0].stem if files.data else "run")
    checkpoint = check_out(out, overwrite=overwrite, resume=resume)
    from recparam.runs.config import Config
    from recparam.runs.fits import Fit

    # A lag of the file is a default, which files that are paired otherwise, or --seconds, do without.
    given = settings if config is None or settings.lag != _read(config).settings.lag else replace(settings, lag=None)
    recording, timed = read_rows(fit, files, reading, given, seconds=seconds, rate=rate)
    if timed is not given:
        settings = timed
    log: Callable[[str], None] = (lambda line: None) if json else print
    fitted = Fit(Config(files, reading, settings), recording, log=log).run(checkpoint, resume=resume)
    if not json:
        print_scored(fitted.scored, what="held out")
    fitted.save(out, checkpoint=checkpoint, overwrite=overwrite)
    if json:
        from recparam.utils.storage import json_text

        print(json_text({"run": out, "report": out / "report.html", **fitted.facts()}))
        return 0
    print(f"Wrote {out}. Open {out / 'report.html'}, or write the latents:")
    print(f"recparam transform {shlex.join([str(out), *files.words()])} -o latents.npz")
    return 0


def read_rows(
    command: Callable[..., int],
    files: PositionalFiles,
    reading: Reading,
    settings: _AnySettings,
    *,
    seconds: tuple[float, ...] | None,
    rate: float | None,
) -> "tuple[Recording, _AnySettings]":
    """The rows of files, and the settings with the lag that a time from x to x' is.

    Args:
        command: Whose options messages name.
        files: The data.
        reading: How files become rows.
        settings: Of the estimator.
        seconds: Time from x to x', in place of a lag.
        rate: Rows per second.

    Raises:
        ValueError: Files that cannot be read, or options that do not go together.
    """
    from recparam.runs.fits import lag_in_rows

    for name, value in (("--data-prime", files.data_prime), ("--nearest-key", reading.nearest_key)):
        if value and (settings.lag or seconds):
            raise ValueError(f"Expected {name}, --lag or --seconds, each of which says what a pair is; got several.")
    recording = reading.rows(files)
    recording.notes = tuple(in_options(note, options_of(command)) for note in recording.notes)
    if seconds is not None or rate is not None:
        rows = lag_in_rows(recording, lag=settings.lag, seconds=seconds, rate=rate)
        settings = replace(settings, lag=tuple(rows) if len(rows) > 1 else rows[0])
    return recording, settings


def with_config(command: Callable[..., int], words: Sequence[str]) -> Callable[..., int]:
    """`fit` with the data and settings of the file that --config names as its defaults.

    Args:
        command: `fit`.
        words: Of the command line, after `fit`.

    Raises:
        ValueError: The file cannot be used.
    """
    parser = functools.partial(tyro.cli, _ConfigOption, prog="recparam fit", add_help=False)
    path = parser(args=list(words), return_unknown_args=True)[0].config
    if path is None:
        return command
    config = _read(path)
    files, settings = PositionalFiles(**vars(config.files)), _Settings(**vars(config.settings))
    return functools.partial(command, files=files, settings=settings, reading=config.reading)


@dataclass(frozen=True)
class _ConfigOption:
    config: Path | None = None


def _read(path: Path) -> "Config":
    from recparam.runs.config import Config

    return Config.read(path, defaults=_Settings())
