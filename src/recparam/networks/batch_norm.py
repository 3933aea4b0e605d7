"""Running statistics of batch norm that belong to the present parameters alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from recparam.utils.evaluating import evaluating


def recalibrate_batch_norm(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Recompute all running statistics of batch norm as the plain average over the given batches.

    In training, running statistics are an exponential average over past *parameters* as well as past batches,
    so evaluation with them is noisy while the encoder still moves. After this call they belong to the present
    parameters alone. Parameters, training mode and momentum are left as they were; a module without running
    statistics is left alone.

    Args:
        module: any module; it is called on each batch without gradients.
        batches: inputs of the module, as large as those it was trained on.

    Raises:
        ValueError: no batches.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    before = [{name: b.clone() for name, b in norm.named_buffers(recurse=False)} for norm in norms]
    done = False
    try:
        with evaluating(module):  # dropout and the like must not disturb the statistics
            for norm in norms:
                norm.train()
                norm.momentum = None  # the cumulative average
                norm.reset_running_stats()
            with torch.no_grad():
                for batch in batches:
                    module(batch)
                    done = True
        if not done:
            raise ValueError("Expected batches to hold at least one batch; got none.")
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
