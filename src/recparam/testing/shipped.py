"""What the library ships, by name: a constructor each, for the conformance checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from recparam.couplings import (
    After,
    AtLag,
    Bilinear,
    ConstantVelocity,
    Cosine,
    Coupling,
    CouplingSum,
    Damped,
    Directions,
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
from recparam.marginals import BatchMarginal, DatasetMarginal, Marginal, QueueMarginal
from recparam.marginals.estimated import EstimatedMarginal
from recparam.networks import MLP
from recparam.priors import (
    InfoNCEPrior,
    JointCategoricalPrior,
    JointGaussianPrior,
    OptimalPrior,
    Prior,
)
from recparam.recognition import (
    Categorical,
    Deterministic,
    EpsilonGaussian,
    Gaussian,
    RecognitionModel,
)
from recparam.recognition.posteriors import AmortisedPosterior, PairPosterior, Posterior, RecognitionPosterior

INPUT_WIDTH = 4
"""Width of the observations that recognition models in `RECOGNITION_MODELS` take."""
_OF_PAIRS: Mapping[str, Callable[[int], Coupling]] = {
    "bilinear": lambda dim: Bilinear(dim),
    "gaussian rbf": lambda dim: GaussianRBF(),
    "gaussian rbf, given": lambda dim: GaussianRBF(lengthscale=0.8),
    "gaussian rbf per dimension": lambda dim: GaussianRBF(dim=dim),
    "cosine": lambda dim: Cosine(temperature=0.5),
    "on dimensions": lambda dim: OnDimensions(GaussianRBF(), [dim - 1]),
    "sum": lambda dim: CouplingSum([OnDimensions(Bilinear(1), [0]), GaussianRBF()]),
    "step length": lambda dim: StepLength(),
    "laplace": lambda dim: Laplace(),
    "laplace per dimension": lambda dim: Laplace(dim=dim),
    "generalised normal": lambda dim: GeneralisedNormal(1.3),
    "student t": lambda dim: StudentT(2.5, dim=dim),
    "von mises-fisher": lambda dim: VonMisesFisher(dim, concentration=2.0),
    "directions": lambda dim: Directions(dim),
    "directions on a circle": lambda dim: OnDimensions(Directions(2, concentration=3.0), [0, dim - 1]),
    "linear dynamics": lambda dim: LinearDynamics(dim),
    "switching": lambda dim: Switching([LinearDynamics(dim), VonMisesFisher(dim)], weights=[0.7, 0.3]),
    "separable critic": lambda dim: SeparableCritic(dim, features=5, hidden=8),
    "joint critic": lambda dim: JointCritic(dim, hidden=8),
    "groups": lambda dim: Groups(StepLength(), [[0], list(range(1, dim))]),
    "groups, each its own": lambda dim: Groups(GaussianRBF(), [[0], [dim - 1]], shared=False, rest="free"),
}
_OF_WINDOWS: Mapping[str, Callable[[int], Coupling]] = {
    "at a lag": lambda dim: AtLag(GaussianRBF(), 2),
    "constant velocity": lambda dim: After(ConstantVelocity(), GaussianRBF()),
    "damped": lambda dim: After(Damped(), StepLength()),
    "linear AR(3)": lambda dim: After(LinearAR(3, dim), GaussianRBF()),
    "neural transition": lambda dim: After(NeuralTransition(2, dim, hidden=8), GaussianRBF()),
    "switching orders": lambda dim: Switching([After(ConstantVelocity(), LinearDynamics(dim)), LinearDynamics(dim)]),
    "two lags": lambda dim: CouplingSum([GaussianRBF(), AtLag(OnDimensions(Bilinear(1), [0]), 3)]),
    "groups of velocities": lambda dim: OnDimensions(
        Groups(CouplingSum([After(ConstantVelocity(), GaussianRBF()), StepLength()]), [[0]]), [dim - 1]
    ),
}
COUPLINGS: Mapping[str, Callable[[int], Coupling]] = {**_OF_PAIRS, **_OF_WINDOWS}
"""Constructors of couplings for latents of a given width; some read several earlier latents."""
PRIORS: Mapping[str, Callable[[int], Prior]] = {
    **{f"infonce, {name}": lambda dim, make=make: InfoNCEPrior(make(dim)) for name, make in _OF_PAIRS.items()},
    "optimal": lambda dim: OptimalPrior(),
    "joint gaussian": lambda dim: JointGaussianPrior(dim),
    "joint categorical": lambda dim: JointCategoricalPrior(dim, dim),
}
"""Constructors of priors for pairs of latents of a given width."""
RECOGNITION_MODELS: Mapping[str, Callable[[int], RecognitionModel]] = {
    "deterministic": lambda dim: Deterministic(nn.Linear(INPUT_WIDTH, dim)),
    "epsilon gaussian": lambda dim: EpsilonGaussian(nn.Linear(INPUT_WIDTH, dim), epsilon=0.1),
    "gaussian": lambda dim: Gaussian(nn.Linear(INPUT_WIDTH, 2 * dim)),
    "categorical": lambda dim: Categorical(nn.Linear(INPUT_WIDTH, dim)),
}
"""Constructors of recognition models with latents of a given width, for observations of width INPUT_WIDTH."""
MARGINALS: Mapping[str, Callable[..., Marginal]] = {
    "batch": lambda *observations: BatchMarginal(),
    "data set": lambda *observations: DatasetMarginal(*observations),
    "weighted data set": lambda *observations: DatasetMarginal(
        *observations, weights=torch.linspace(1, 2, len(observations[0]))
    ),
    "held data set": lambda *observations: DatasetMarginal(*observations, hold=True, chunk=4),
    "estimated": lambda *observations: EstimatedMarginal(*(_rows_of(x) for x in observations), num_samples=32),
    "queue": lambda *observations: QueueMarginal(8, widths=[x.shape[1] for x in observations]),
}
"""Constructors of marginals, given the observations that make the data set."""
POSTERIORS: Mapping[str, Callable[[int, int], Posterior]] = {
    "recognition": lambda dim, pairs: RecognitionPosterior(),
    "amortised": lambda dim, pairs: AmortisedPosterior(MLP(2 * INPUT_WIDTH, 4 * dim, hidden=(8,))),
    "per pair, full": lambda dim, pairs: PairPosterior(pairs, [dim, dim], family="full gaussian"),
    "amortised, categorical": lambda dim, pairs: AmortisedPosterior(
        MLP(2 * INPUT_WIDTH, dim**2, hidden=(8,)), family="categorical"
    ),
}
"""Constructors of posteriors, given the latents' width and the number of pairs of observations of width INPUT_WIDTH."""


def _rows_of(x: Tensor) -> Callable[[int, torch.Generator | None], Tensor]:
    """A sampler that draws rows of x."""
    return lambda n, generator: x[torch.randint(len(x), (n,), generator=generator)]
