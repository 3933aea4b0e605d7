"""What `recparam` offers, and where each name lives: the one list, read by type checkers and by `__init__.py`."""

from . import ops as ops
from .bounds import (
    Bound as Bound,
)
from .bounds import (
    CeilingWarning as CeilingWarning,
)
from .bounds import (
    Decomposition as Decomposition,
)
from .bounds import (
    MutualInformation as MutualInformation,
)
from .bounds import (
    infonce as infonce,
)
from .bounds import (
    losses as losses,
)
from .bounds.groups import elbo_of_groups as elbo_of_groups
from .comparison import Comparison as Comparison
from .comparison.compare import compare as compare
from .couplings import (
    After as After,
)
from .couplings import (
    AtLag as AtLag,
)
from .couplings import (
    Bilinear as Bilinear,
)
from .couplings import (
    ConstantVelocity as ConstantVelocity,
)
from .couplings import (
    Cosine as Cosine,
)
from .couplings import (
    CouplingSum as CouplingSum,
)
from .couplings import (
    Damped as Damped,
)
from .couplings import (
    GaussianRBF as GaussianRBF,
)
from .couplings import (
    GeneralisedNormal as GeneralisedNormal,
)
from .couplings import (
    Groups as Groups,
)
from .couplings import (
    JointCritic as JointCritic,
)
from .couplings import (
    Laplace as Laplace,
)
from .couplings import (
    LinearAR as LinearAR,
)
from .couplings import (
    LinearDynamics as LinearDynamics,
)
from .couplings import (
    NeuralTransition as NeuralTransition,
)
from .couplings import (
    OnDimensions as OnDimensions,
)
from .couplings import (
    SeparableCritic as SeparableCritic,
)
from .couplings import (
    StepLength as StepLength,
)
from .couplings import (
    StudentT as StudentT,
)
from .couplings import (
    Switching as Switching,
)
from .couplings import (
    VonMisesFisher as VonMisesFisher,
)
from .data.labels import Labels as Labels
from .estimator import RPMEstimator as RPMEstimator
from .marginals import (
    BatchMarginal as BatchMarginal,
)
from .marginals import (
    DatasetMarginal as DatasetMarginal,
)
from .marginals import (
    QueueMarginal as QueueMarginal,
)
from .marginals.bank import Bank as Bank
from .marginals.estimated import BaseDensity as BaseDensity
from .marginals.estimated import EstimatedMarginal as EstimatedMarginal
from .marginals.flows import FlowBase as FlowBase
from .marginals.joint import RecognitionJoint as RecognitionJoint
from .marginals.mixtures import GaussianMixtureBase as GaussianMixtureBase
from .model import RPM as RPM
from .model.generation import Generated as Generated
from .model.matching import Matching as Matching
from .model.prediction import Prediction as Prediction
from .model.trajectories import trajectories as trajectories
from .mutual_information.estimate import (
    MutualInformationEstimate as MutualInformationEstimate,
)
from .mutual_information.estimate import (
    estimate_mutual_information as estimate_mutual_information,
)
from .networks import MLP as MLP
from .networks import CentreOfMassCNN as CentreOfMassCNN
from .networks import ConvEncoder as ConvEncoder
from .plots.prior import draw_prior as draw_prior
from .priors import (
    InfoNCEPrior as InfoNCEPrior,
)
from .priors import (
    JointCategoricalPrior as JointCategoricalPrior,
)
from .priors import (
    JointGaussianPrior as JointGaussianPrior,
)
from .priors import (
    OptimalPrior as OptimalPrior,
)
from .recognition import (
    Categorical as Categorical,
)
from .recognition import (
    Deterministic as Deterministic,
)
from .recognition import (
    Dirac as Dirac,
)
from .recognition import (
    EpsilonGaussian as EpsilonGaussian,
)
from .recognition import (
    Gaussian as Gaussian,
)
from .recognition.posteriors import (
    AmortisedPosterior as AmortisedPosterior,
)
from .recognition.posteriors import (
    PairPosterior as PairPosterior,
)
from .training import RPMModule as RPMModule

__version__: str
