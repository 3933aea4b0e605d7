"""Recognition models R_phi(z|x), latents that stand for an expectation, and posteriors Q."""

from recparam.recognition.models import (
    Categorical,
    DensityError,
    Deterministic,
    Dirac,
    EpsilonGaussian,
    Gaussian,
    RecognitionModel,
    density_score,
    gaussian_parameters,
)
from recparam.recognition.particles import Particles, enumerable, recognise
from recparam.recognition.posteriors import (
    AmortisedPosterior,
    Family,
    FreePosterior,
    PairPosterior,
    Posterior,
    RecognitionPosterior,
)

__all__ = [
    "AmortisedPosterior",
    "Categorical",
    "DensityError",
    "Deterministic",
    "Dirac",
    "EpsilonGaussian",
    "Family",
    "FreePosterior",
    "Gaussian",
    "PairPosterior",
    "Particles",
    "Posterior",
    "RecognitionModel",
    "RecognitionPosterior",
    "density_score",
    "enumerable",
    "gaussian_parameters",
    "recognise",
]
