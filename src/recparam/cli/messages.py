"""The library's messages in the words of the command line: options in place of arguments, and no Python."""

import re
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

_CALLED = {  # what an option stands for
    "recparam.data.channels.own_channels": "own_channels=",
    "recparam.data.conditioned.nearest(recording, variable)": "nearest_key=",
    "recparam.data.windows": "window=",
    "random_state=": "seed=",
    "X_prime=": "data_prime=",
    "times=": "times_key=",
}
_SENTENCE = re.compile(r"(?<=[.?])\s+(?=[A-Z])")
_ARGUMENT = re.compile(r"(?<![\w'\"./-])([A-Za-z_]+)=(?P<value>(?=[\w'\"]))?")
_NAME = re.compile(r"(?<![\w'\"./=-])[a-z]+(_[a-z]+)+(?![\w'\"./=-]*[\w'\"])")
_PYTHON = re.compile(r"\b(recparam|rp|np|numpy|torch|data|X|X_prime)\.[A-Za-z_]|[a-z_]\(\S*|\bmodule\b|Recording\.")


def options_of(command: Callable[..., Any]) -> set[str]:
    """The options of a command, as arguments are called: latent_dim for --latent-dim."""
    found: set[str] = set()
    for name, kind in get_type_hints(command).items():
        found |= {field.name for field in fields(kind)} if is_dataclass(kind) else {name}
    return found - {"return", "run", "runs", "random_state"} | ({"seed"} if "random_state" in found else set())


def in_options(message: str, options: Collection[str]) -> str:
    """A message with options where it names arguments, and without advice that only Python can follow.

    Args:
        message: Sentences, the first of which says what is wrong.
        options: See `options_of`.
    """
    for python, option in _CALLED.items():
        if option.rstrip("=") in options:
            message = message.replace(python, option)
    said, *advice = _SENTENCE.split(message)
    return " ".join(_written(part, options) for part in (said, *filter(lambda part: _holds(part, options), advice)))


def _holds(sentence: str, options: Collection[str]) -> bool:
    """Whether advice can be followed on the command line."""
    return not _PYTHON.search(sentence) and all(found[1] in options for found in _ARGUMENT.finditer(sentence))


def _written(sentence: str, options: Collection[str]) -> str:
    def option(name: str) -> str:
        return f"--{name.replace('_', '-')}" if name in options else name

    spaced = _ARGUMENT.sub(lambda found: option(found[1]) + " " * (found["value"] is not None), sentence)
    return _NAME.sub(lambda found: option(found[0]), spaced)
