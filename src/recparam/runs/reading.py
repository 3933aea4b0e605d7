"""How files are turned into rows, and rows into pairs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from recparam.data.pairs import Pairs
    from recparam.data.recording import Recording

# Other imports are in the functions: the command line builds these objects to print its help.


@dataclass(frozen=True)
class DataFiles:
    """The files of a recording, and those that go with them row by row.

    Args:
        data: Files: npy, npz, csv, parquet, h5, mat, video, or a folder of images. Several are sessions.
        data_prime: Files of a second modality, one for each of DATA: row i of them is the x' of row i.
        sessions: File (npy, npz, csv, parquet) with the session of each row of DATA; no pair crosses from one to the
            next.
    """

    data: tuple[Path, ...] = ()
    data_prime: tuple[Path, ...] = ()
    sessions: Path | None = None

    def words(self) -> list[str]:
        """As they are written on a command line."""
        return [
            *map(str, self.data),
            *(["--data-prime", *map(str, self.data_prime)] if self.data_prime else []),
            *(["--sessions", str(self.sessions)] if self.sessions else []),
        ]


@dataclass(frozen=True)
class Reading:
    """How files are turned into rows, and rows into pairs; the same for every command on a run.

    Args:
        key: Name of the array in files that hold several; of tables the columns, separated by commas.
        key_prime: Likewise in the files of the second modality.
        one_clock: Bring the second modality to the times of DATA: by the mean of its rows in each bin, by what lies
            between two of them (linear), or by the nearest one. Both need times. None: row i goes with row i.
        size: Longer side of frames in pixels.
        grey: Whether frames lose their colour.
        sessions_key: Array or column with the session of each row, in DATA or in the file of --sessions.
        times_key: Array or column of DATA with the time of each row: seconds, the unit in its name (t_ms), or
            dates such as 2024-01-31T10:30:00. No pair crosses a gap in time.
        times_key_prime: Likewise in the files of the second modality.
        dims: What each axis of an array is, such as trial,time,channel or channel,time. Trials are sessions.
        bin: DATA are spike times, counted in bins of so many seconds: npz with an array for each unit, tables with
            columns unit and time, or nwb.
        nearest_key: Arrays or columns of DATA, such as a position: pairs are rows at which they are alike.
        apart: Least number of rows between such a pair of one session. None: 1.
        own_channels: Each file has channels, and so an encoder, of its own; pairs are then those of --nearest-key.
    """

    key: str | None = None
    key_prime: str | None = None
    one_clock: Literal["mean", "linear", "nearest"] | None = None
    size: int | None = None
    grey: bool | None = None
    sessions_key: str | None = None
    times_key: str | None = None
    times_key_prime: str | None = None
    dims: str | None = None
    bin: float | None = None
    nearest_key: str | None = None
    apart: int | None = None
    own_channels: bool = False

    def over(self, stored: Mapping[str, Any]) -> Reading:
        """These options where they are set, and the stored ones elsewhere."""
        unset = Reading()
        changed = {name: value for name, value in vars(self).items() if value != getattr(unset, name)}
        return Reading(**{field.name: stored[field.name] for field in fields(self) if field.name in stored} | changed)

    def rows(self, files: DataFiles) -> Recording:
        """Read files as x; each one is a session, or several.

        Raises:
            ValueError: No files, files that cannot be read, or options that do not go together.
        """
        from recparam.data.channels import own_channels

        if not files.data:
            raise ValueError("Expected DATA, at least one file; got none.")
        if self.bin is not None:
            for name, value in (
                ("--times-key", self.times_key),
                ("--dims", self.dims),
                ("--sessions-key", self.sessions_key if files.sessions is None else None),
            ):
                if value is not None:
                    raise ValueError(f"Expected --bin or {name}; got both. Bins of spikes have times of their own.")
        if not self.own_channels:
            recording = self._with_sessions(self._read(files.data, self.key), files)
            return self._with_times(recording, files.data, self.times_key)
        for name, value in (
            ("--data-prime", files.data_prime or None),
            ("--sessions", files.sessions),
            ("--sessions-key", self.sessions_key),
        ):
            if value is not None:
                raise ValueError(f"Expected --own-channels or {name}; got both. Each file is one session of vectors.")
        if len(files.data) < 2:
            raise ValueError(
                "Expected as many files as sessions with --own-channels, at least two, in the order of the fit; got 1."
            )
        sessions = [(self._read([path], self.key), path) for path in files.data]
        return own_channels([self._with_times(session, [path], self.times_key) for session, path in sessions])

    def pairs(self, recording: Recording, files: DataFiles, *, lag: int | Sequence[int]) -> Pairs:
        """The pairs of rows of files: those that are declared, and otherwise rows a lag apart.

        Raises:
            ValueError: No such pairs, or options that do not go together.
        """
        from recparam.data.pairs import consecutive

        return self.declared(recording, files) or consecutive(recording, lag=lag)

    def declared(self, recording: Recording, files: DataFiles) -> Pairs | None:
        """The pairs of two modalities, or of rows where a variable is alike; None where neither is asked for.

        Args:
            recording: What `rows` made of the files.
            files: The files.

        Raises:
            ValueError: No such pairs, or options that do not go together.
        """
        from recparam.data.conditioned import nearest
        from recparam.data.grids import resample
        from recparam.data.pairs import aligned

        if self.nearest_key is None:
            for name, value in (("--own-channels", self.own_channels), ("--apart", self.apart)):
                if value:
                    raise ValueError(
                        f"Expected --nearest-key with {name}, a variable that means the same in all sessions, at like "
                        "values of which rows are pairs; got none."
                    )
        elif files.data_prime:
            raise ValueError("Expected --data-prime or --nearest-key, which both say what a pair is; got both.")
        if not files.data_prime and (self.one_clock or self.times_key_prime):
            raise ValueError("Expected --data-prime with --one-clock and --times-key-prime; got none.")
        if files.data_prime:
            prime = self._read(files.data_prime, self.key_prime, prime=True)
            if self.one_clock is None:
                prime = self._with_times(self._with_sessions(prime, files), files.data_prime, self.times_key_prime)
            else:
                prime = self._with_times(prime, files.data_prime, self.times_key_prime)
                prime = resample(prime, like=recording, how=self.one_clock)
            return aligned(recording, prime)
        if self.nearest_key is not None:
            return nearest(recording, _values(files.data, self.nearest_key), apart=self.apart or 1)
        return None

    def _read(self, paths: Sequence[Path], key: str | None, *, prime: bool = False) -> Recording:
        from recparam.data.containers import declared
        from recparam.data.readers import read
        from recparam.data.spikes import bin_spikes
        from recparam.runs.files import read_spike_times

        if self.bin is not None and not prime:
            spikes = [read_spike_times(path, key=key) for path in paths]
            return bin_spikes(spikes if len(spikes) > 1 else spikes[0], width=self.bin)
        named = [self.sessions_key, self.times_key_prime if prime else self.times_key]
        without = [name.strip() for name in [*named, *(self.nearest_key or "").split(",")] if name]
        with declared(self.dims.split(",") if self.dims and not prime else None):
            return read(list(paths), key=key, size=self.size, grey=self.grey, without=without)

    def _with_sessions(self, recording: Recording, files: DataFiles) -> Recording:
        """The recording with each of its sessions split where the labels of its rows change."""
        import numpy as np

        from recparam.data.checks import per_row, session_codes
        from recparam.data.containers import names_of_sessions

        if files.sessions is None and self.sessions_key is None:
            return recording
        labels = _values([files.sessions] if files.sessions else files.data, self.sessions_key)
        labels = per_row("sessions", labels[:, 0] if labels.shape[1] == 1 else labels, [len(recording)])
        codes, start = [], 0
        for own in np.split(labels, np.flatnonzero(np.diff(recording.sessions)) + 1):
            codes.append(session_codes(own, len(own)) + start)
            start = int(codes[-1][-1]) + 1
        split = copy.copy(recording)
        split.sessions = np.concatenate(codes)
        split.session_names = names_of_sessions(labels, split.sessions)
        return split

    def _with_times(self, recording: Recording, paths: Sequence[Path], key: str | None) -> Recording:
        """The recording with the times that its files hold, in an array or a column."""
        import numpy as np

        from recparam.data.checks import in_seconds, per_row
        from recparam.data.clocks import unit_of
        from recparam.data.containers import as_clock

        if key is None:
            return recording
        timed = copy.copy(recording)
        try:
            clock = as_clock(_values(paths, key)[:, 0])
            dates = clock.dtype.kind == "M"
            if self.dims and len(clock) and len(recording) % len(clock) == 0:  # the same for all trials
                clock = np.tile(clock, len(recording) // len(clock))
            clock = per_row("times", clock if dates else clock * unit_of(key)[1], [len(recording)])
            timed.times, timed.origin = in_seconds(clock, recording.sessions), clock[0] if dates else None
        except ValueError as error:
            text = str(error).replace("sessions=", "--sessions-key")
            raise ValueError(f"--times-key {key}: {text}") from None
        since = f"seconds since {np.datetime_as_string(clock[0])}" if dates else "seconds"
        return timed.noted(f"Times are those of {key}, in {since}.")


def _values(paths: Sequence[Path], key: str | None) -> np.ndarray:
    """Values of the rows of files, (N, K), one file after the other."""
    import numpy as np

    from recparam.runs.files import read_values

    return np.concatenate([read_values(path, key=key) for path in paths])
