"""Tensors only: pairwise scores, and the log-sum-exp over them that every bound is made of."""

from recparam.ops.collectives import gather_rows
from recparam.ops.contrast import pairwise_contrast
from recparam.ops.distances import AbsoluteDistance, DistanceProfile
from recparam.ops.logsumexp import explain, pairwise_infonce, pairwise_logmeanexp, pairwise_logsumexp
from recparam.ops.particles import ParticleScore, pack_particles
from recparam.ops.score_matrix import LeaveOut
from recparam.ops.scores import (
    BlockScore,
    DotProduct,
    Exchanged,
    Features,
    GaussianDensity,
    IntegratedDistance,
    IntegratedDotProduct,
    MappedSides,
    OnColumns,
    ProductScore,
    Score,
    SquaredDistance,
    SumOfScores,
)
from recparam.ops.select import Selected, pairwise_sample, pairwise_topk
from recparam.ops.summaries import (
    BankMoments,
    HighestSets,
    Places,
    Ranks,
    pairwise_entropy,
    pairwise_highest,
    pairwise_log_probs,
    pairwise_moments,
    pairwise_places,
    pairwise_ranks,
    pairwise_scores,
)
from recparam.utils.checks import NonFiniteError

__all__ = [
    "AbsoluteDistance",
    "BlockScore",
    "DistanceProfile",
    "DotProduct",
    "Exchanged",
    "Features",
    "GaussianDensity",
    "ParticleScore",
    "HighestSets",
    "IntegratedDistance",
    "IntegratedDotProduct",
    "LeaveOut",
    "MappedSides",
    "BankMoments",
    "NonFiniteError",
    "OnColumns",
    "Places",
    "ProductScore",
    "Ranks",
    "Score",
    "Selected",
    "SquaredDistance",
    "SumOfScores",
    "explain",
    "gather_rows",
    "pack_particles",
    "pairwise_contrast",
    "pairwise_entropy",
    "pairwise_highest",
    "pairwise_infonce",
    "pairwise_log_probs",
    "pairwise_logmeanexp",
    "pairwise_logsumexp",
    "pairwise_moments",
    "pairwise_places",
    "pairwise_ranks",
    "pairwise_sample",
    "pairwise_scores",
    "pairwise_topk",
]
