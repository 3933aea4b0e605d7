"""What the experiment on identifiability runs, and the checks made before any work."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from recparam.experiments.identifiability.worlds import World
from recparam.experiments.outcome import check_least, check_names

WORLDS = {
    "sphere-3": World("sphere", 3, "von-mises-fisher", 10.0),
    "sphere-10": World("sphere", 10, "von-mises-fisher", 20.0),
    "box-laplace": World("box", 3, "laplace", 0.05),
    "box-normal": World("box", 3, "normal", 0.08),
}
"""By name, which is the first part of an arm's."""

_OWN_SHAPE = {"von-mises-fisher": "von-mises-fisher", "laplace": "laplace", "normal": "gaussian"}

MATCHING = {name: _OWN_SHAPE[world.conditional] for name, world in WORLDS.items()}
"""The prior of each world's own shape."""

PRIORS = {
    "sphere": ("von-mises-fisher", "laplace", "separable"),
    "box": ("laplace", "gaussian", "student-t", "separable"),
}
"""What is trained in each space. On the sphere von Mises-Fisher, cosine and Gaussian are one prior."""

LONGER = {"sphere-10": 10}
"""How many times as many steps a world takes: with more latents the encoder learns more slowly."""

CONTROLS = ("untrained", "truth", "chance")


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers.

    Args:
        worlds: Of `WORLDS`.
        steps: Of training, each on new pairs; times `LONGER`.
        batch_size: Pairs per step; the other z' are the negatives.
        held_out: Pairs on which everything is scored, all of them one bank.
        hidden: Widths of the encoder's hidden layers.
        lr: Of Adam for the encoder; up over the first steps, then down to zero along a cosine.
        scale_lr: The same for kappa and the lengthscales, which are learned as logarithms and have far to go.

    Raises:
        ValueError: A value that cannot be run.
    """

    worlds: tuple[str, ...] = tuple(WORLDS)
    steps: int = 600
    batch_size: int = 512
    held_out: int = 4096
    hidden: tuple[int, ...] = (128, 128, 128)
    lr: float = 0.01
    scale_lr: float = 0.05

    def __post_init__(self) -> None:
        check_least(self, {"steps": 1, "batch_size": 2, "held_out": 64})
        for name in ("lr", "scale_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {getattr(self, name)}.")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1; got {list(self.hidden)}.")
        check_names("worlds", self.worlds, WORLDS)

    def arms(self) -> list[str]:
        """WORLD/PRIOR of each arm: those that are trained, then the controls."""
        return [f"{name}/{prior}" for name in self.worlds for prior in (*PRIORS[WORLDS[name].space], *CONTROLS)]

    def steps_of(self, world: str) -> int:
        """Steps of training in a world."""
        return self.steps * LONGER.get(world, 1)

    def identity(self) -> dict[str, Any]:
        """What must agree for two commands to share an output folder; it may grow by worlds."""
        numbers = {name: value for name, value in asdict(self).items() if name != "worlds"}
        data = {name: asdict(world) for name, world in WORLDS.items()}
        return {"experiment": "identifiability", **numbers, "longer": LONGER, "data": data, "matching": MATCHING}
