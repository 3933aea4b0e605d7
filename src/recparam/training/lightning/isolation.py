"""A run apart from the rest of the process: Lightning's messages, and the global settings that it changes."""

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Iterator

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning

from recparam.utils.seeds import forked


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Keep Lightning's messages from the user, and the run's global settings from the rest of the process."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    environment = dict(os.environ)
    interrupt = signal.getsignal(signal.SIGINT)
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, grad = torch.backends.cudnn.benchmark, torch.is_grad_enabled()
    try:
        with warnings.catch_warnings(), forked():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        if signal.getsignal(signal.SIGINT) is not interrupt and interrupt is not None:
            signal.signal(signal.SIGINT, interrupt)
        torch.use_deterministic_algorithms(deterministic, warn_only=only_warn)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_grad_enabled(grad)
