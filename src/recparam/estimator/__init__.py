"""Your own data: the model behind scikit-learn's `fit`, `transform` and `score`, and models saved as folders."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from recparam.estimator.alarms import FitWarning
    from recparam.estimator.core import RPMEstimator

__all__ = ["FitWarning", "RPMEstimator"]

# On first use: the command line prints its help from `recparam.estimator.settings`, without waiting for torch.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"alarms": ["FitWarning"], "core": ["RPMEstimator"]}
)
