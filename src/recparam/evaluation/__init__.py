"""How well latents recover known quantities and each other, and predictions their own probabilities.

Linear decoding, one-to-one matching, consistency of runs, intervals over seeds: arrays in, numbers out. Calibration
takes a prediction, retrieval the places of partners in a matching; nothing here knows a model.
"""

from recparam.evaluation.consistent import Consistency, consistency
from recparam.evaluation.decoding import LinearDecoder, distance_error, matched_error, matched_places, mcc, r2
from recparam.evaluation.intervals import Interval, interval_text, mean_interval
from recparam.evaluation.predictions import Calibration, Retrieval, calibration, retrieval

__all__ = [
    "Calibration",
    "Consistency",
    "Interval",
    "LinearDecoder",
    "Retrieval",
    "calibration",
    "consistency",
    "distance_error",
    "interval_text",
    "matched_error",
    "matched_places",
    "mcc",
    "mean_interval",
    "r2",
    "retrieval",
]
