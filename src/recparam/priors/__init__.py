"""P_theta(z, z') through its log-ratio with the marginals: energy-based, optimal, and densities of their own."""

from recparam.priors.base import Kind, Prior, Side, Terms
from recparam.priors.densities import JointCategoricalPrior, JointGaussianPrior, ParametricPrior
from recparam.priors.infonce import InfoNCEPrior
from recparam.priors.optimal import OptimalPrior

__all__ = [
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
