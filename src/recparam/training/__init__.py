"""Train a model by maximising its bound, with a Lightning module and `fit`, which resumes.

Everything random about a run depends on its seed and the number of the epoch alone, so a run that was
interrupted and resumed ends, on a CPU, with the same weights to the last bit as one that was not.
"""

from recparam.data.batches import Batches, PairBatches, TupleBatches
from recparam.training.diverged import TrainingDiverged
from recparam.training.lightning.checkpoints import COLUMNS, Epoch, SafetensorsCheckpointIO, checkpoint_path
from recparam.training.lightning.loop import fit
from recparam.training.lightning.module import OPTIMISERS, SCHEDULES, Objective, RPMModule

__all__ = [
    "COLUMNS",
    "OPTIMISERS",
    "SCHEDULES",
    "Batches",
    "Epoch",
    "Objective",
    "PairBatches",
    "RPMModule",
    "SafetensorsCheckpointIO",
    "TrainingDiverged",
    "TupleBatches",
    "checkpoint_path",
    "fit",
]
