"""Fits that resume: the state of all starts in a folder, in one file that is replaced whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recparam.data.fingerprint import fingerprint_of_pairs
from recparam.estimator.alarms import warn
from recparam.estimator.candidates import Candidate
from recparam.estimator.names import describe_prior
from recparam.utils.storage import changes, check_format, load_checkpoint, remove_leftovers, save_checkpoint

FORMAT, FORMAT_VERSION = "recparam-fit", 2
_FILE = "fit.ckpt"
_SECONDS = 10.0  # between two writes
_OF_NO_MATTER = (  # to what is fitted, or there under another name
    "accelerator",
    "devices",
    "dropout",
    "encoder",
    "encoder_prime",
    "lag",
    "progress",
    "random_state",
    "window",
)
_SHARE = 0.05  # of the time of a fit that may be spent on them


class Checkpoint:
    """A folder with the state of a fit.

    Args:
        folder: Is created when the fit begins.
        replace: Whether a state that is there is replaced when the fit begins, whatever it is, and not before.

    Attributes:
        facts: Data and settings of the fit whose state is there; None where there is none.

    Raises:
        ValueError: The path is a file, or a folder of something else.
        StorageError: The state is damaged, or of a newer version.
    """

    def __init__(self, folder: str | os.PathLike[str], *, replace: bool = False) -> None:
        self.folder = Path(folder)
        self._path = self.folder / _FILE
        self._state: Any = None
        self._next, self._failed = 0.0, False
        self.facts: dict[str, Any] | None = None
        if self._path.is_file():
            if not replace:
                self._read()
        elif self.folder.is_file() or (self.folder.is_dir() and any(not _left(p) for p in self.folder.iterdir())):
            raise ValueError(
                f"Expected resume= as a new folder, or as that of an unfinished fit; got {self.folder}, which is "
                "something else. Choose another name."
            )

    def begin(self, facts: Mapping[str, Any]) -> Any:
        """The state to resume from, None where there is none; the folder is made ready.

        Args:
            facts: Data and settings of the fit that is about to begin, plain values by name.

        Raises:
            ValueError: The state is that of another fit; the text says what differs.
            OSError: The folder cannot be written.
        """
        facts = dict(facts)
        if self.facts is not None:
            different = changes(self.facts, facts)
            if different:
                raise ValueError(
                    f"Expected the data and settings of the fit in {self.folder}; got others: {'; '.join(different)}. "
                    "Give the same ones, or choose another folder."
                )
        else:
            self._path.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        self.facts, self._next = facts, time.monotonic() + _SECONDS
        state, self._state = self._state, None
        return state

    def write(self, state: Callable[[], Any], *, now: bool = False) -> None:
        """Write the state, if the last time is long enough ago.

        A disk that is full is warned of, once: the former state is still there, and the fit continues.

        Args:
            state: Gives it.
            now: Write in any case.
        """
        began = time.monotonic()
        if not (now or began >= self._next):
            return
        tree = {"format": FORMAT, "format_version": FORMAT_VERSION, "facts": self.facts, "state": state()}
        try:
            save_checkpoint(self._path, tree)
        except OSError as error:
            if not self._failed:
                warn([f"The fit continues, but its state cannot be written: {error}. Make room there."], stacklevel=2)
            self._failed = True
        ended = time.monotonic()
        self._next = ended + max(_SECONDS, (ended - began) / _SHARE)

    def _read(self) -> None:
        tree: Any = load_checkpoint(self._path)
        check_format(self._path, tree, name=FORMAT, version=FORMAT_VERSION, what="the state of a fit")
        self.facts, self._state = tree["facts"], tree["state"]


def facts_of(settings: Mapping[str, Any], *, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """What has to be equal in a fit and its resumption, as plain values by name.

    Args:
        settings: Of the estimator, with the numbers that stand for None, and the seed.
        candidates: That are compared.
    """
    first, prior = candidates[0], candidates[0].make(0, 0).prior
    facts = {name: value for name, value in settings.items() if name not in _OF_NO_MATTER}
    facts["encoders"] = [spec.text for one in candidates for specs in one.specs for spec in specs]
    facts["choices"] = [one.choice.text for one in candidates]
    facts["prior"] = settings["prior"] if isinstance(settings["prior"], str) else describe_prior(prior, prior)
    rows = " x ".join(map(str, first.fitted.recording.shape))
    for name, part in zip(("data", "held_out"), (first.fitted, first.held_out), strict=True):
        facts[name] = f"{rows}, {len(part)} pairs, checksum {fingerprint_of_pairs(part)[:12]}"
    return facts


def _left(path: Path) -> bool:
    """Whether a file is one that a killed process was writing."""
    return path.name.startswith(f".{_FILE}.")
