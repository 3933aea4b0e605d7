"""How files are turned into rows, and rows into pairs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from recparam.data.pairs import Pairs
    from recparam.data.recording import Recording

# Other imports are in the functions: the command line builds these objects to print its help.


@dataclass(frozen=True)
class Beside:
    """Files that go with DATA, row by row.

    Args:
        data_prime: Files of a second modality, one for each of DATA: row i of them is the x' of row i.
        sessions: File (npy, npz, csv, parquet) with the session of each row of DATA; no pair crosses from one to the
            next.
    """

    data_prime: tuple[Path, ...] = ()
    sessions: Path | None = None

    def words(self) -> list[str]:
        """As they are given on a command line."""
        return [
            *(["--data-prime", *map(str, self.data_prime)] if self.data_prime else []),
            *(["--sessions", str(self.sessions)] if self.sessions else []),
        ]


ALONE = Beside()


@dataclass(frozen=True)
class Reading:
    """How files are turned into rows, and rows into pairs; the same for every command on a run.

    Args:
        key: Name of the array in files that hold several; of tables the columns, separated by commas.
        key_prime: Likewise in the files of the second modality.
        size: Longer side of frames in pixels.
        grey: Whether frames lose their colour.
        window: Rows of a window, of which the row itself is the last; the lag is as many unless given.
        sessions_key: Array or column with the session of each row, in DATA or in the file of --sessions.
        nearest_key: Arrays or columns of DATA, such as a position: pairs are rows at which they are alike.
        apart: Rows that such a pair of one session is at least apart; 1 unless given.
        own_channels: Each file has channels, and so an encoder, of its own; pairs are then those of --nearest-key.
    """

    key: str | None = None
    key_prime: str | None = None
    size: int | None = None
    grey: bool | None = None
    window: int | None = None
    sessions_key: str | None = None
    nearest_key: str | None = None
    apart: int | None = None
    own_channels: bool = False

    def over(self, stored: Mapping[str, Any]) -> Reading:
        """What is given here, and what was stored where nothing is given."""
        given = {name: value for name, value in asdict(self).items() if value is not None and value is not False}
        given |= {"grey": self.grey} if self.grey is not None else {}
        return Reading(**{field.name: stored[field.name] for field in fields(self) if field.name in stored} | given)

    def rows(self, paths: Sequence[Path], beside: Beside = ALONE) -> Recording:
        """Read files as x; each one is a session, or several.

        Raises:
            ValueError: No files, files that cannot be read, or options that do not go together.
        """
        from recparam.data.channels import own_channels

        if not paths:
            raise ValueError("Expected DATA, at least one file; got none.")
        if not self.own_channels:
            return self._windowed(self._divided(self._read(paths, self.key), paths, beside))
        for name, given in (
            ("--window", self.window),
            ("--data-prime", beside.data_prime or None),
            ("--sessions", beside.sessions),
            ("--sessions-key", self.sessions_key),
        ):
            if given is not None:
                raise ValueError(f"Expected --own-channels or {name}; got both. Each file is one session of vectors.")
        if len(paths) < 2:
            raise ValueError(
                "Expected as many files as sessions with --own-channels, at least two, in the order of the fit; got 1."
            )
        return own_channels([self._read([path], self.key) for path in paths])

    def pairs(
        self, recording: Recording, paths: Sequence[Path], beside: Beside, *, lag: int | Sequence[int]
    ) -> Pairs:
        """The pairs of rows of files: of two modalities, of rows where a variable is alike, or some rows apart.

        Args:
            recording: What `rows` made of the files.
            paths: The files.
            beside: Files that go with them.
            lag: Rows from x to x', where nothing else says what a pair is.

        Raises:
            ValueError: No such pairs, or options that do not go together.
        """
        from recparam.data.conditioned import nearest
        from recparam.data.pairs import aligned, consecutive

        if self.nearest_key is None:
            for name, given in (("--own-channels", self.own_channels), ("--apart", self.apart)):
                if given:
                    raise ValueError(
                        f"Expected --nearest-key with {name}, a variable that means the same in all sessions, at like "
                        "values of which rows are pairs; got none."
                    )
        elif beside.data_prime:
            raise ValueError("Expected --data-prime or --nearest-key, which both say what a pair is; got both.")
        if beside.data_prime:
            prime = self._divided(self._read(beside.data_prime, self.key_prime), beside.data_prime, beside, like=paths)
            return aligned(recording, self._windowed(prime))
        if self.nearest_key is not None:
            return nearest(recording, _values(paths, self.nearest_key), apart=self.apart or 1)
        return consecutive(recording, lag=lag)

    def _read(self, paths: Sequence[Path], key: str | None) -> Recording:
        from recparam.data.readers import read

        named = [self.sessions_key, *(self.nearest_key or "").split(",")]
        return read(
            list(paths), key=key, size=self.size, grey=self.grey, without=[name.strip() for name in named if name]
        )

    def _windowed(self, recording: Recording) -> Recording:
        from recparam.data.windows import windowed
        from recparam.utils.checks import check_count

        if self.window is None:
            return recording
        check_count("window", self.window)
        return windowed(recording, before=self.window - 1)

    def _divided(
        self, recording: Recording, paths: Sequence[Path], beside: Beside, *, like: Sequence[Path] | None = None
    ) -> Recording:
        """The recording with each of its sessions divided where the labels of its rows change."""
        from recparam.data.checks import per_row, session_codes

        if beside.sessions is None and self.sessions_key is None:
            return recording
        labels = _values([beside.sessions] if beside.sessions else like or paths, self.sessions_key)
        labels = per_row("sessions", labels[:, 0] if labels.shape[1] == 1 else labels, [len(recording)])
        codes, start = [], 0
        for own in np.split(labels, np.flatnonzero(np.diff(recording.sessions)) + 1):
            codes.append(session_codes(own, len(own)) + start)
            start = int(codes[-1][-1]) + 1
        divided = copy.copy(recording)
        divided.sessions = np.concatenate(codes)
        return divided


def _values(paths: Sequence[Path], key: str | None) -> np.ndarray:
    """Values of the rows of files, (N, K), one file after the other."""
    from recparam.runs.files import read_values

    return np.concatenate([read_values(path, key=key) for path in paths])
