"""P_theta(z, z') through its log-ratio with the marginals: energy-based, optimal, and densities of their own."""

from recparam.priors.base import Prior, Terms
from recparam.priors.densities import JointCategoricalPrior, JointGaussianPrior, ParametricPrior
from recparam.priors.directions import Direction, Kind, Side
from recparam.priors.infonce import InfoNCEPrior
from recparam.priors.optimal import OptimalPrior

__all__ = [
    "Direction",
    "InfoNCEPrior",
    "JointCategoricalPrior",
    "JointGaussianPrior",
    "Kind",
    "OptimalPrior",
    "ParametricPrior",
    "Prior",
    "Side",
    "Terms",
]
