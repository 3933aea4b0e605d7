"""How well latents recover known quantities and each other.

Linear decoding, angles, one-to-one matching, consistency of runs, intervals over seeds: arrays in, numbers out.
"""

from recparam.evaluation.angles import AngleError, angle_error, angle_of, direction_error
from recparam.evaluation.consistent import Consistency, consistency
from recparam.evaluation.decoding import LinearDecoder, distance_error, matched_error, matched_places, mcc, r2
from recparam.evaluation.intervals import Interval, interval_text, mean_interval

__all__ = [
    "AngleError",
    "Consistency",
    "Interval",
    "LinearDecoder",
    "angle_error",
    "angle_of",
    "consistency",
    "direction_error",
    "distance_error",
    "interval_text",
    "matched_error",
    "matched_places",
    "mcc",
    "mean_interval",
    "r2",
]
