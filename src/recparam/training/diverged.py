"""Training that has left the finite numbers."""


class TrainingDiverged(RuntimeError):
    """The objective, a gradient or a parameter stopped being finite; the last checkpoint is good.

    Args:
        what: what is not finite.
        label: the name of what was trained.
        step: the optimiser's step at which it happened, from 1.
        epoch: the epoch, from 1.
        lr: the learning rate of the run.
    """

    def __init__(self, what: str, *, label: str, step: int, epoch: int, lr: float) -> None:
        super().__init__(
            f"{label}: {what} is not finite at step {step} (epoch {epoch}). Training stopped; the checkpoint "
            f"of the last finished epoch is kept. Lower `lr` (now {lr:g}), set `gradient_clip`, or look for extreme "
            "observations."
        )
        self.label, self.step, self.epoch, self.lr = label, step, epoch, lr
