"""The part of training that runs under a Lightning Trainer: the extra `lightning`."""

from recparam.utils.extras import optional

optional("lightning", "lightning", needed_by="RPMModule (and so fit and recparam balls)")

from recparam.training.lightning.checkpoints import COLUMNS, AtomicCheckpointIO, Epoch, checkpoint_path  # noqa: E402
from recparam.training.lightning.loop import fit  # noqa: E402
from recparam.training.lightning.module import OPTIMISERS, SCHEDULES, Objective, RPMModule  # noqa: E402

__all__ = [
    "COLUMNS",
    "OPTIMISERS",
    "SCHEDULES",
    "Epoch",
    "Objective",
    "RPMModule",
    "AtomicCheckpointIO",
    "checkpoint_path",
    "fit",
]
