"""What the few-shot experiment runs, and the checks made before any work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from recparam.experiments.outcome import check_least

PRIORS = ("gaussian", "laplace", "von-mises-fisher", "bilinear", "separable")
"""What is trained: an InfoNCE prior of each of these couplings."""

CONTROLS = ("pixels", "pca", "untrained")


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers.

    Args:
        latent_dim: Number of latents, and of components of the PCA.
        steps: Of training, at most; early stopping by the bound of held-out training rows.
        starts: From other weights, of which that bound chooses.
        batch_size: Pairs of views per step.
        held_out: Digits that nothing is trained on.
        shift: The largest move of a view along either axis, pixels.
        turn: The largest turn of a view, degrees.
        draws: Sets of labelled examples, over which accuracies are averaged.

    Raises:
        ValueError: A value that cannot be run.
    """

    latent_dim: int = 16
    steps: int = 600
    starts: int = 2
    batch_size: int = 256
    held_out: int = 597
    shift: float = 2.0
    turn: float = 30.0
    draws: int = 30

    def __post_init__(self) -> None:
        check_least(self, {"latent_dim": 2, "steps": 1, "starts": 1, "batch_size": 2, "held_out": 100, "draws": 1})
        if self.held_out > 1497:
            raise ValueError(f"held_out must be at most 1497, of 1797 digits; got {self.held_out}. Give a smaller one.")
        if self.latent_dim > 64:
            raise ValueError(f"latent_dim must be at most 64, the number of pixels; got {self.latent_dim}.")
        for name in ("shift", "turn"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")

    def arms(self) -> list[str]:
        """Those that are trained, then the controls."""
        return [*PRIORS, *CONTROLS]

    def identity(self) -> dict[str, Any]:
        """What must agree for two commands to share an output folder."""
        return {"experiment": "few-shot", **asdict(self)}
