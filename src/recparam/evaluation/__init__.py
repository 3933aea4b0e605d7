"""How well latents recover known quantities and each other.

Linear decoding, one-to-one matching, consistency of runs, intervals over seeds: arrays in, numbers out.
"""

from recparam.evaluation.consistent import Consistency, consistency
from recparam.evaluation.decoding import LinearDecoder, distance_error, matched_error, matched_places, mcc, r2
from recparam.evaluation.intervals import Interval, interval_text, mean_interval

__all__ = [
    "Consistency",
    "Interval",
    "LinearDecoder",
    "consistency",
    "distance_error",
    "interval_text",
    "matched_error",
    "matched_places",
    "mcc",
    "mean_interval",
    "r2",
]
