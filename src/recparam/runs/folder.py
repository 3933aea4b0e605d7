"""The folder of a run: what `recparam fit` writes, whole or not at all, and reads back.

`run.json` says what was fitted to, how it was read, and the held-out bound; `run.yaml` is its `Config`; `latents.npz`
has the latents of the data of the fit; `report.html` is the page; the other files are the model, as
`RPMEstimator.save` writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from recparam.data.fingerprint import fingerprint
from recparam.data.pairs import Pairs
from recparam.data.readers import read_columns
from recparam.data.recording import Recording
from recparam.estimator import RPMEstimator
from recparam.estimator.settings import Settings
from recparam.runs.config import Config
from recparam.runs.files import read_labels, write_latents
from recparam.runs.latents import Latents, next_latents, predict_latents
from recparam.runs.reading import DataFiles, Reading
from recparam.runs.report import write_run_report
from recparam.utils.storage import replacing_folder, write_json
from recparam.utils.versions import versions

FORMAT = 1
_FACTS, _CONFIG, _LATENTS, _REPORT = "run.json", "run.yaml", "latents.npz", "report.html"


@dataclass(frozen=True)
class Run:
    """A run that was loaded.

    Args:
        folder: Its folder.
        estimator: The fitted model.
        facts: Content of `run.json`.
    """

    folder: Path
    estimator: RPMEstimator
    facts: dict[str, Any]

    def reading(self, options: Reading) -> Reading:
        """How the data of the fit were read, but for the options that are set."""
        return options.over(self.facts["reading"])

    def pairs(self, recording: Recording, files: DataFiles, *, options: Reading) -> Pairs:
        """Pairs of the rows of files, read as `reading` says, made as those of the fit were.

        Raises:
            ValueError: See `Reading.pairs`, or the second modality is missing.
        """
        if not self.estimator.model_.shared and not files.data_prime:
            raise ValueError(f"Expected --data-prime, a second modality as {self.folder} was fitted to; got none.")
        return self.reading(options).pairs(recording, files, lag=self.estimator.lag_)

    def trained_rows(self, recording: Recording) -> Bool[np.ndarray, " N"] | None:
        """Which rows were trained on, None where the recording is not the one of the fit."""
        if fingerprint(recording) != self.facts["fingerprint"]:
            return None
        return ~_held_out(self.facts, len(recording))


def check_out(out: Path, *, overwrite: bool, resume: bool = True) -> Path:
    """Refuse a folder for a new run that holds something else, before any work.

    Args:
        out: The folder.
        overwrite: Whether a run there is replaced.
        resume: Whether there may be the checkpoint of an interrupted fit.

    Returns:
        Folder of the checkpoint, which is kept until the run is written.

    Raises:
        ValueError: Something is there that is no run, or is a run and must not be overwritten; or nothing can be
            written there.
    """
    check_free(out, holds=_FACTS, what="a run", overwrite=overwrite)
    checkpoint = out.with_name(f"{out.absolute().name}.partial")
    if checkpoint.exists() and not (resume or overwrite):
        raise ValueError(
            f"Expected --out without the checkpoint of an interrupted fit; got {out}, and {checkpoint} is there. "
            "Resume that fit with --resume, or replace it with --overwrite."
        )
    return checkpoint


def check_free(out: Path, *, holds: str, what: str, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or that holds something else.

    Args:
        out: The folder.
        holds: A file that tells one of the kind that may be replaced.
        what: That kind, for messages.
        overwrite: Whether it is replaced.

    Raises:
        ValueError: See `check_out`.
    """
    if out.is_file():
        raise ValueError(f"Expected --out as a folder; got {out}, which is a file. Choose another name.")
    if out.is_dir() and any(out.iterdir()):
        if not (out / holds).is_file():
            raise ValueError(f"Expected --out as a new folder; got {out}, which has other files. Choose another name.")
        if not overwrite:
            raise ValueError(
                f"Expected --out as a new folder; got {out}, which holds {what}. Choose another name, or replace it "
                "with --overwrite."
            )
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise ValueError(f"Expected --out where files can be written; got {out}, in {above}. Choose another place.")


def save_run(
    out: Path,
    estimator: RPMEstimator,
    *,
    held_out: Pairs,
    bound: Mapping[str, Any],
    config: Config,
    overwrite: bool = False,
) -> Run:
    """Write a run, whole or not at all.

    Args:
        out: The folder; see `check_out`.
        estimator: Fitted.
        held_out: Pairs of what it was fitted to, on which it was not.
        bound: Its bound on them, see `Scored.facts`.
        config: Where the recording came from, and how it was read.
        overwrite: Whether a run at `out` is replaced.

    Returns:
        The run.

    Raises:
        ValueError: See `check_out`.
        OSError: The folder cannot be written; what was at `out` is still there.
    """
    check_out(out, overwrite=overwrite)
    recording, prime = held_out.recording, held_out.recording_prime
    rows = np.zeros(len(recording), dtype=bool)
    rows[held_out.rows()] = rows[held_out.second] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[0], rows.astype(int), [0]]))).reshape(-1, 2)
    facts = {
        "format": FORMAT,
        "files": [str(path) for path in config.files.data],
        "reading": asdict(config.reading),
        "data": _describe(held_out, config),
        "fingerprint": fingerprint(recording),
        "held_out_rows": [[int(first), int(end) - 1] for first, end in edges],
        "bound": dict(bound),
        "versions": versions(),
    }
    with replacing_folder(out) as folder:
        estimator.save(folder)
        write_json(folder / _FACTS, facts)
        settings = Settings(**{field.name: getattr(estimator, field.name) for field in fields(Settings)})
        replace(config, settings=settings).write(folder / _CONFIG)
        latents = {"z": estimator.transform(recording)}
        if prime is not None:
            latents["z_prime"] = estimator.transform(prime, side="x_prime")
        write_latents(folder / _LATENTS, latents, recording=recording)
        write_page_of(Run(folder, estimator, facts), title=out.absolute().name)
    return Run(out, estimator, facts)


def load_run(folder: Path) -> Run:
    """Load a run.

    Raises:
        ValueError: The folder is no run, or of a newer version, or damaged.
    """
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        version = int(facts["format"])
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"Expected RUN as a folder that recparam fit wrote; got {folder}. Check the path.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / _FACTS}: damaged ({error}). Fit again, or restore it from a copy.") from error
    if version > FORMAT:
        raise ValueError(f"{folder}: expected a run of format {FORMAT} or older, got {version}. Update recparam.")
    return Run(folder, RPMEstimator.load(folder), facts)


def write_page_of(run: Run, *, title: str | None = None, labels: Path | None = None, key: str | None = None) -> Path:
    """Write `report.html` of a run.

    Args:
        run: The run.
        title: Of the page; None: the name of its folder.
        labels: File of values that colour the latents.
        key: Of an array or a column in that file.

    Returns:
        The page.

    Raises:
        ValueError: See `read_labels`, or the run's latents cannot be read.
        OSError: The page cannot be written.
    """
    stored = read_columns(run.folder / _LATENTS)
    rows = len(stored["z"])
    latents = Latents(
        z=stored["z"].astype(float),
        sessions=stored["sessions"],
        held_out=_held_out(run.facts, rows),
        times=stored.get("times"),
    )
    lag = None if run.facts["reading"].get("nearest_key") else min(run.estimator.lag_)
    following = stored["z_prime"] if "z_prime" in stored else next_latents(latents, lag)
    return write_run_report(
        run.folder / _REPORT,
        title=title or run.folder.absolute().name,
        description=run.estimator.describe(),
        bound=run.facts["bound"],
        history=run.estimator.history_,
        latents=latents,
        prediction=predict_latents(run.estimator, latents, following=following, lag=lag),
        labels=read_labels(labels, rows=rows, key=key) if labels else None,
        data=run.facts["data"],
        settings=run.estimator.get_params(deep=False),
        versions=run.facts["versions"],
    )


def _describe(held_out: Pairs, config: Config) -> dict[str, Any]:
    """What was fitted to, by name."""
    recording, prime = held_out.recording, held_out.recording_prime
    names, files = recording.names, config.files
    return {
        "files": [path.name for path in files.data],
        **({"files of x'": [path.name for path in files.data_prime]} if prime is not None else {}),
        **({"file of sessions": files.sessions.name} if files.sessions else {}),
        "rows": len(recording),
        "shape of a row": list(recording.shape[1:]),
        **({"shape of a row of x'": list(prime.shape[1:])} if prime is not None else {}),
        "type": str(recording.dtype),
        "sessions": int(recording.sessions[-1]) + 1,
        "pairs": held_out.how,
        "held-out pairs": len(held_out),
        **({"columns": list(names)} if names else {}),
        **({"notes": list(recording.notes)} if recording.notes else {}),
    }


def _held_out(facts: Mapping[str, Any], rows: int) -> Bool[np.ndarray, " N"]:
    mask = np.zeros(rows, dtype=bool)
    for first, last in facts["held_out_rows"]:
        mask[first : last + 1] = True
    return mask
