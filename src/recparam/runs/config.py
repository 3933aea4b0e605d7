"""What a fit depends on, as a file: data, how they are read, and the settings of the estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from recparam.estimator.settings import Settings
from recparam.runs.reading import DataFiles, Reading

# Imports of torch are in the functions: `recparam fit --config FILE --help` reads a file.
_HEADER = "# Data and settings of a fit; recparam fit --config FILE repeats it.\n"


@dataclass(frozen=True)
class Config:
    """Everything that a fit depends on, but for where it is written.

    Args:
        files: The data, and the files that go with them.
        reading: How they become rows, and rows pairs.
        settings: Of `rp.RPMEstimator`.
    """

    files: DataFiles
    reading: Reading
    settings: Settings

    @classmethod
    def read(cls, path: Path, *, defaults: Settings) -> Config:
        """Read a file that `write` wrote, or one like it; nothing in it is run.

        Args:
            path: The file.
            defaults: Settings that the file does not name.

        Raises:
            ValueError: No such file, no YAML, or a key or a kind of value that has no meaning.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"Expected --config as a file that can be read; got {path} ({error.strerror}).") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected YAML, such as RUN/run.yaml; got something else ({error}).") from None
        of_files = [field.name for field in fields(DataFiles)]
        content = _mapping(path, "the file", content or {}, (*of_files, "reading", "estimator"))
        for name in of_files[:2]:
            if isinstance(content.get(name), str):
                content[name] = [content[name]]
        parts = {name: value for name, value in content.items() if name in of_files and value is not None}
        return cls(
            DataFiles(**_values(path, DataFiles, "the file", parts)),
            Reading(**_values(path, Reading, "reading", content.get("reading") or {})),
            replace(defaults, **_values(path, Settings, "estimator", content.get("estimator") or {})),
        )

    def write(self, path: Path) -> None:
        """Write it, paths in full, whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        from recparam.utils.storage import replacing

        content = {
            **{name: _plain(value) for name, value in vars(self.files).items()},
            "reading": dict(vars(self.reading)),
            "estimator": {name: _plain(value) for name, value in vars(self.settings).items()},
        }
        with replacing(path) as file:
            file.write_text(_HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _plain(value: Any) -> Any:
    """A value as YAML has it."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def _mapping(path: Path, what: str, content: Any, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected {what} as names with values; got {content!r}.")
    for name in content:
        if name not in known:
            from recparam.estimator.names import unknown_name

            raise ValueError(f"{path}: {unknown_name(f'the names in {what}', name, known)}")
    return content


def _values(path: Path, kind: type, what: str, content: Any) -> Mapping[str, Any]:
    """Values of a dataclass by name, each as the type of its field."""
    types = get_type_hints(kind)
    found: dict[str, Any] = {}
    for name, value in _mapping(path, what, content, list(types)).items():
        try:
            found[name] = _as(types[name], value)
        except (TypeError, ValueError):
            raise ValueError(f"{path}: expected {name} as {_said(types[name])}; got {value!r}.") from None
    return found


def _as(hint: Any, value: Any) -> Any:
    """A value of YAML as one of a type; 1e-3, which YAML takes for text, as a number.

    Raises:
        ValueError: It is none.
    """
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        if value in parts:
            return value
    elif kind is tuple:
        if isinstance(value, list | tuple):
            return tuple(_as(parts[0], one) for one in value)
    elif parts:  # a union
        for part in parts:
            try:
                return _as(part, value)
            except (TypeError, ValueError):
                continue
    elif kind is Path and isinstance(value, str):
        return Path(value)
    elif kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ValueError(hint)


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a file"}
_WORDS[NoneType] = "null"


def _said(hint: Any) -> str:
    """A type in words."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return " or ".join(map(repr, parts))
    if kind is tuple:
        return f"a list of {_WORDS[parts[0]].removeprefix('a ')}s"
    return " or ".join(map(_said, parts)) if parts else _WORDS[kind]
