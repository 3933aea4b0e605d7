"""The sizes that a network is made with."""

from collections.abc import Mapping


def check_counts(sizes: Mapping[str, int]) -> None:
    """That sizes, by name, are positive whole numbers; a ValueError names the first that is not."""
    for name, value in sizes.items():
        if isinstance(value, bool) or value < 1:
            raise ValueError(f"Expected {name} to be a whole number >= 1; got {value!r}.")
