"""What a fit is given, as a file: data, how they are read, and the settings of the estimator."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from recparam.estimator import RPMEstimator
from recparam.estimator.names import nearest
from recparam.runs.reading import ALONE, Beside, Reading
from recparam.utils.storage import replacing

SETTINGS = tuple(name for name in inspect.signature(RPMEstimator).parameters if name != "progress")
_TEXT = ("prior", "encoder", "encoder_prime", "accelerator", "precision")
_ABOVE = "# What recparam fit was given; recparam fit --config FILE does it again.\n"


@dataclass(frozen=True)
class Config:
    """Everything that a fit depends on, but for where it is written.

    Args:
        data: Files, each one a session.
        reading: How they become rows, and rows pairs.
        estimator: Settings of `rp.RPMEstimator` by name; its own defaults stand for the others.
        beside: Files that go with the data, row by row.
    """

    data: tuple[Path, ...]
    reading: Reading
    estimator: dict[str, Any]
    beside: Beside = ALONE

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the estimator, with what differs from its defaults: a seed, and a lag of whole windows."""
        window = self.reading.window
        return {"random_state": 0} | ({} if window is None else {"lag": window}) | self.estimator

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read a file that `write` wrote, or one like it; nothing in it is run.

        Raises:
            ValueError: No such file, no YAML, or a key or a kind of value that has no meaning.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"Expected --config as a file that can be read; got {path} ({error.strerror}).") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected YAML, such as RUN/run.yaml; got something else ({error}).") from None
        parts = ("data", "data_prime", "sessions", "reading", "estimator")
        content = _mapping(path, "the file", {} if content is None else content, parts)
        data, prime = (_files(path, name, content.get(name) or []) for name in ("data", "data_prime"))
        sessions = content.get("sessions")
        if not isinstance(sessions, str | None):
            raise ValueError(f"{path}: expected sessions as a file; got {sessions!r}.")
        known = tuple(field.name for field in fields(Reading))
        reading = _mapping(path, "reading", content.get("reading") or {}, known)
        settings = _mapping(path, "estimator", content.get("estimator") or {}, SETTINGS)
        return cls(
            data,
            Reading(**reading),
            {name: value if name in _TEXT else _number(value) for name, value in settings.items()},
            Beside(prime, None if sessions is None else Path(sessions)),
        )

    def write(self, path: Path) -> None:
        """Write it, paths in full, whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        content = {
            "data": [str(one.absolute()) for one in self.data],
            "data_prime": [str(one.absolute()) for one in self.beside.data_prime],
            "sessions": self.beside.sessions and str(self.beside.sessions.absolute()),
            "reading": asdict(self.reading),
            "estimator": {name: list(v) if isinstance(v, tuple) else v for name, v in self.estimator.items()},
        }
        with replacing(path) as file:
            file.write_text(_ABOVE + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def under(
        self, data: tuple[Path, ...], reading: Reading, settings: Mapping[str, Any], beside: Beside = ALONE
    ) -> Config:
        """The same but for what is given here: files, if any, with those beside them, and what is not None."""
        return Config(
            data or self.data,
            reading.over(asdict(self.reading)),
            self.estimator | {name: value for name, value in settings.items() if value is not None},
            Beside(beside.data_prime or self.beside.data_prime, beside.sessions or self.beside.sessions),
        )


def _mapping(path: Path, what: str, content: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected {what} as names with values; got {content!r}.")
    for name in content:
        if name not in known:
            raise ValueError(f"{path}: {nearest(f'the names in {what}', name, known)}")
    return content


def _files(path: Path, name: str, content: Any) -> tuple[Path, ...]:
    if not isinstance(content, str | list) or not all(isinstance(one, str) for one in content):
        raise ValueError(f"{path}: expected {name} as a list of files; got {content!r}.")
    return tuple(Path(one) for one in ([content] if isinstance(content, str) else content))


def _number(value: Any) -> Any:
    """Lists as tuples, as saved models have them, and what YAML takes for text, such as 1e-3, as a number."""
    if isinstance(value, list):
        return tuple(_number(one) for one in value)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
