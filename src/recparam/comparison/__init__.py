"""Models compared by their evidence on held-out data."""

from recparam.comparison.errors import values_of
from recparam.comparison.result import Comparison, Difference, Evidence, comparison, interval_of

__all__ = [
    "Comparison",
    "Difference",
    "Evidence",
    "comparison",
    "interval_of",
    "values_of",
]
