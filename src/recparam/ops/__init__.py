"""Tensors only: pairwise scores and the log-sum-exp over them that every bound is made of."""

from recparam.ops.checks import NonFiniteError
from recparam.ops.logsumexp import pairwise_infonce, pairwise_logmeanexp, pairwise_logsumexp
from recparam.ops.pairs import LeaveOut
from recparam.ops.scores import (
    AbsoluteDistance,
    BlockScore,
    DotProduct,
    Features,
    GaussianDensity,
    OnColumns,
    ProductScore,
    Score,
    SquaredDistance,
    SumOfScores,
)

__all__ = [
    "AbsoluteDistance",
    "BlockScore",
    "DotProduct",
    "Features",
    "GaussianDensity",
    "LeaveOut",
    "NonFiniteError",
    "OnColumns",
    "ProductScore",
    "Score",
    "SquaredDistance",
    "SumOfScores",
    "pairwise_infonce",
    "pairwise_logmeanexp",
    "pairwise_logsumexp",
]
