"""The recognition-parameterised model, and what is asked of it: prediction, matching, sampling, sides."""

from recparam.model.assembly import Expectation
from recparam.model.rpm import RPM

__all__ = [
    "Expectation",
    "RPM",
]
