"""Where R(z) and R(z, z') come from: banks of encoded rows, and the joint they make (App. A)."""

from recparam.marginals.bank import Bank, Queries
from recparam.marginals.base import Marginal, Recognised, Scored, normalised_weights
from recparam.marginals.batch import BatchMarginal
from recparam.marginals.dataset import DatasetMarginal
from recparam.marginals.encoded import Encode
from recparam.marginals.estimated import BaseDensity, EstimatedMarginal
from recparam.marginals.joint import RecognitionJoint
from recparam.marginals.queue import QueueMarginal

__all__ = [
    "Bank",
    "BaseDensity",
    "BatchMarginal",
    "DatasetMarginal",
    "Encode",
    "EstimatedMarginal",
    "Marginal",
    "Queries",
    "QueueMarginal",
    "Recognised",
    "RecognitionJoint",
    "Scored",
    "normalised_weights",
]
