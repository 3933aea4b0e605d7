"""People's own data: the model behind scikit-learn's `fit`, `transform` and `score`, and models saved as folders."""

from recparam.estimator.alarms import FitWarning
from recparam.estimator.core import RPMEstimator

__all__ = ["FitWarning", "RPMEstimator"]
