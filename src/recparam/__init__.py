"""Recognition-parameterised models in PyTorch.

Top-level names load on first use, so that `import recparam` is quick and has no side effect.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("recparam")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from recparam import ops
    from recparam.bounds import Bound, CeilingWarning, Decomposition, MutualInformation, infonce, losses
    from recparam.bounds.groups import elbo_of_groups
    from recparam.comparison import Comparison
    from recparam.comparison.compare import compare
    from recparam.couplings import (
        After,
        AtLag,
        Bilinear,
        ConstantVelocity,
        Cosine,
        CouplingSum,
        Damped,
        GaussianRBF,
        GeneralisedNormal,
        Groups,
        JointCritic,
        Laplace,
        LinearAR,
        LinearDynamics,
        NeuralTransition,
        OnDimensions,
        SeparableCritic,
        StepLength,
        StudentT,
        Switching,
        VonMisesFisher,
    )
    from recparam.data.labels import Labels
    from recparam.estimator import RPMEstimator
    from recparam.marginals import BatchMarginal, DatasetMarginal, QueueMarginal
    from recparam.marginals.bank import Bank
    from recparam.marginals.estimated import BaseDensity, EstimatedMarginal
    from recparam.marginals.flows import FlowBase
    from recparam.marginals.joint import RecognitionJoint
    from recparam.marginals.mixtures import GaussianMixtureBase
    from recparam.model import RPM
    from recparam.model.generation import Generated
    from recparam.model.matching import Matching
    from recparam.model.prediction import Prediction
    from recparam.model.trajectories import trajectories
    from recparam.mutual_information.estimate import MutualInformationEstimate, estimate_mutual_information
    from recparam.networks import MLP, CentreOfMassCNN, ConvEncoder
    from recparam.plots.prior import draw_prior
    from recparam.priors import InfoNCEPrior, JointCategoricalPrior, JointGaussianPrior, OptimalPrior
    from recparam.recognition import Categorical, Deterministic, Dirac, EpsilonGaussian, Gaussian
    from recparam.recognition.posteriors import AmortisedPosterior, PairPosterior

# The home of every top-level name; a subpackage is its own home. Must agree with the imports above.
_HOMES = {
    "RPM": "recparam.model",
    "Deterministic": "recparam.recognition",
    "Gaussian": "recparam.recognition",
    "EpsilonGaussian": "recparam.recognition",
    "Categorical": "recparam.recognition",
    "Dirac": "recparam.recognition",
    "Bilinear": "recparam.couplings",
    "GaussianRBF": "recparam.couplings",
    "Cosine": "recparam.couplings",
    "CouplingSum": "recparam.couplings",
    "OnDimensions": "recparam.couplings",
    "Groups": "recparam.couplings",
    "GeneralisedNormal": "recparam.couplings",
    "JointCritic": "recparam.couplings",
    "Laplace": "recparam.couplings",
    "LinearDynamics": "recparam.couplings",
    "SeparableCritic": "recparam.couplings",
    "StudentT": "recparam.couplings",
    "Switching": "recparam.couplings",
    "VonMisesFisher": "recparam.couplings",
    "StepLength": "recparam.couplings",
    "After": "recparam.couplings",
    "AtLag": "recparam.couplings",
    "ConstantVelocity": "recparam.couplings",
    "Damped": "recparam.couplings",
    "LinearAR": "recparam.couplings",
    "NeuralTransition": "recparam.couplings",
    "InfoNCEPrior": "recparam.priors",
    "OptimalPrior": "recparam.priors",
    "JointCategoricalPrior": "recparam.priors",
    "JointGaussianPrior": "recparam.priors",
    "BatchMarginal": "recparam.marginals",
    "DatasetMarginal": "recparam.marginals",
    "QueueMarginal": "recparam.marginals",
    "AmortisedPosterior": "recparam.recognition.posteriors",
    "PairPosterior": "recparam.recognition.posteriors",
    "EstimatedMarginal": "recparam.marginals.estimated",
    "BaseDensity": "recparam.marginals.estimated",
    "GaussianMixtureBase": "recparam.marginals.mixtures",
    "FlowBase": "recparam.marginals.flows",
    "Generated": "recparam.model.generation",
    "RecognitionJoint": "recparam.marginals.joint",
    "Bank": "recparam.marginals.bank",
    "Labels": "recparam.marginals.bank",
    "Bound": "recparam.bounds",
    "CeilingWarning": "recparam.bounds",
    "MutualInformation": "recparam.bounds",
    "Decomposition": "recparam.bounds",
    "infonce": "recparam.bounds",
    "estimate_mutual_information": "recparam.mutual_information.estimate",
    "MutualInformationEstimate": "recparam.mutual_information.estimate",
    "elbo_of_groups": "recparam.bounds.groups",
    "compare": "recparam.comparison.compare",
    "Comparison": "recparam.comparison",
    "Prediction": "recparam.model.prediction",
    "Matching": "recparam.model.matching",
    "trajectories": "recparam.model.trajectories",
    "draw_prior": "recparam.plots.prior",
    "CentreOfMassCNN": "recparam.networks",
    "ConvEncoder": "recparam.networks",
    "MLP": "recparam.networks",
    "RPMEstimator": "recparam.estimator",
    "losses": "recparam.bounds.losses",
    "ops": "recparam.ops",
}

__all__ = [
    "MLP",
    "RPM",
    "After",
    "AmortisedPosterior",
    "AtLag",
    "Bank",
    "BaseDensity",
    "BatchMarginal",
    "Bilinear",
    "Bound",
    "Categorical",
    "CeilingWarning",
    "CentreOfMassCNN",
    "Comparison",
    "ConstantVelocity",
    "ConvEncoder",
    "Cosine",
    "CouplingSum",
    "Damped",
    "DatasetMarginal",
    "Decomposition",
    "Deterministic",
    "Dirac",
    "EpsilonGaussian",
    "EstimatedMarginal",
    "FlowBase",
    "Gaussian",
    "GaussianMixtureBase",
    "GaussianRBF",
    "GeneralisedNormal",
    "Generated",
    "Groups",
    "InfoNCEPrior",
    "JointCategoricalPrior",
    "JointCritic",
    "JointGaussianPrior",
    "Labels",
    "Laplace",
    "LinearAR",
    "LinearDynamics",
    "Matching",
    "MutualInformation",
    "MutualInformationEstimate",
    "NeuralTransition",
    "OnDimensions",
    "OptimalPrior",
    "PairPosterior",
    "Prediction",
    "QueueMarginal",
    "RPMEstimator",
    "RecognitionJoint",
    "SeparableCritic",
    "StepLength",
    "StudentT",
    "Switching",
    "VonMisesFisher",
    "__version__",
    "compare",
    "draw_prior",
    "elbo_of_groups",
    "estimate_mutual_information",
    "infonce",
    "losses",
    "ops",
    "trajectories",
]


def __getattr__(name: str) -> Any:
    """Import the home of a top-level name on first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'recparam' has no attribute {name!r}. It offers {', '.join(_HOMES)}.")
    module = import_module(home)
    value = module if name in ("losses", "ops") else getattr(module, name)
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    """List the lazily loaded names beside those already present."""
    return sorted({*globals(), *_HOMES})
