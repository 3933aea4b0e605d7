"""What the experiment on a recorded series runs, and the checks made before any work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from recparam.experiments.outcome import check_least

PRIORS = ("gaussian", "velocity", "ar2")
"""What is trained: staying, constant velocity, and a learned AR(2)."""

CONTROLS = ("untrained", "pca", "mean")

WINDOW = 3
"""Observations of a window: what the prior of the highest order reads, and the one that is scored."""


@dataclass(frozen=True)
class Settings:
    """What decides the numbers, with the data.

    Args:
        lag: Rows between the observations of a window.
        latent_dim: Number of latents, and of components of the PCA.
        steps: Of training, at most; early stopping by the evidence on the validation block.
        starts: From other weights, of which that evidence chooses.
        batch_size: Windows per step.

    Raises:
        ValueError: A value that cannot be run.
    """

    lag: int = 1
    latent_dim: int = 2
    steps: int = 800
    starts: int = 4
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_least(self, {"lag": 1, "latent_dim": 1, "steps": 1, "starts": 1, "batch_size": 2})

    def arms(self) -> list[str]:
        """Those that are trained, then the controls."""
        return [*PRIORS, *CONTROLS]

    def identity(self, data: str) -> dict[str, Any]:
        """What must agree for two commands to share an output folder, the checksum of the data included."""
        return {"experiment": "rat", "data": data, **asdict(self)}
