"""Train a model by maximising its bound, with a Lightning module and `fit`, which resumes.

Everything random about a run depends on its seed and the number of the epoch alone, so a run that was
interrupted and resumed ends, on a CPU, with the same weights to the last bit as one that was not.

What runs under a Lightning Trainer loads on first use, and needs `pip install 'recparam[lightning]'`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recparam.data.batches import Batches, PairBatches, TupleBatches
from recparam.training.diverged import TrainingDiverged

if TYPE_CHECKING:
    from recparam.training.lightning import (
        COLUMNS,
        OPTIMISERS,
        SCHEDULES,
        AtomicCheckpointIO,
        Epoch,
        Objective,
        RPMModule,
        checkpoint_path,
        fit,
    )

__all__ = [
    "COLUMNS",
    "OPTIMISERS",
    "SCHEDULES",
    "Batches",
    "Epoch",
    "Objective",
    "PairBatches",
    "RPMModule",
    "AtomicCheckpointIO",
    "TrainingDiverged",
    "TupleBatches",
    "checkpoint_path",
    "fit",
]


def __getattr__(name: str) -> Any:
    """Import what needs Lightning on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. It offers {', '.join(__all__)}.")
    return getattr(import_module("recparam.training.lightning"), name)
