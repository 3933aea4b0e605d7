"""What an experiment leaves behind, and checks of its settings that all of them share."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

Run = TypeVar("Run")


@dataclass
class Outcome(Generic[Run]):
    """What an experiment leaves behind.

    Args:
        results: Content of `results.json`.
        files: What was written for people to look at.
        failed: Message of every run that did not finish.
    """

    results: dict[str, Any]
    files: list[Path]
    failed: dict[Run, str] = field(default_factory=dict)


def check_least(settings: object, least: Mapping[str, int]) -> None:
    """Check fields of settings against the least that can be run.

    Raises:
        ValueError: naming the field that is smaller.
    """
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise ValueError(f"{name} must be at least {value}; got {getattr(settings, name)}. Give a larger number.")


def check_names(argument: str, names: Sequence[str], known: Collection[str]) -> None:
    """Check that there are names and that all of them are known.

    Raises:
        ValueError: naming the argument, with the known name that is nearest.
    """
    if not names:
        raise ValueError(f"{argument} must name at least one of {', '.join(known)}; got none.")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{argument} must be among {', '.join(known)}; got {name!r}.{hint}")


def seeds_from(seed: int, seeds: int) -> tuple[int, ...]:
    """The seeds of an experiment: so many, from the first.

    Raises:
        ValueError: None, or a negative one.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1; got {seeds}. It is the number of seeds to run.")
    if seed < 0:
        raise ValueError(f"seed must not be negative; got {seed}. It is the first seed; the others follow it.")
    return tuple(range(seed, seed + seeds))
