"""Train a model by maximising its bound, with a Lightning module and `fit`, which resumes.

Everything random about a run depends on its seed and the number of the epoch alone, so a run that was
interrupted and resumed ends, on a CPU, with the same weights to the last bit as one that was not.
"""

from recparam.data.batches import Batches, PairBatches, TupleBatches
from recparam.training.checkpoints import COLUMNS, Epoch, SafetensorsCheckpointIO, checkpoint_path
from recparam.training.loop import fit
from recparam.training.module import OPTIMISERS, SCHEDULES, Objective, RPMModule, TrainingDiverged

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
