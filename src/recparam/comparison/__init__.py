"""Models compared by their evidence on held-out data."""

from recparam.comparison.difference import Difference
from recparam.comparison.errors import values_of
from recparam.comparison.evidence import Evidence, interval_of
from recparam.comparison.result import Comparison, comparison

__all__ = [
    "Comparison",
    "Difference",
    "Evidence",
    "comparison",
    "interval_of",
    "values_of",
]
