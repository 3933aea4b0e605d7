"""Tensors only: pairwise scores and the log-sum-exp over them that every bound is made of."""

from recparam.ops.checks import NonFiniteError
from recparam.ops.logsumexp import pairwise_logmeanexp, pairwise_logsumexp
from recparam.ops.scores import (
    BlockScore,
    DotProduct,
    GaussianDensity,
    OnColumns,
    Score,
    SquaredDistance,
    SumOfScores,
)

__all__ = [
    "BlockScore",
    "DotProduct",
    "GaussianDensity",
    "NonFiniteError",
    "OnColumns",
    "Score",
    "SquaredDistance",
    "SumOfScores",
    "pairwise_logmeanexp",
    "pairwise_logsumexp",
]
