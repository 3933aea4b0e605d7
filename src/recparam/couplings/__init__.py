"""Couplings f_theta: how strongly the prior ties one latent to the next, as log f in nats.

A coupling needs no normaliser (Z takes care of that) and no density; `score` describes it to the kernel.
"""

from recparam.couplings.base import Coupling, CouplingSum, latent_names
from recparam.couplings.bilinear import Bilinear
from recparam.couplings.chains import ChainStep, chain_steps, steps_by_coupling
from recparam.couplings.composed import Groups, OnDimensions
from recparam.couplings.directions import Cosine, VonMisesFisher
from recparam.couplings.distances import GaussianRBF, GeneralisedNormal, Laplace, StudentT
from recparam.couplings.dynamics import LinearDynamics, Switching
from recparam.couplings.neural import JointCritic, SeparableCritic
from recparam.couplings.spheres import Directions
from recparam.couplings.steps import StepLength
from recparam.couplings.transitions import (
    After,
    AtLag,
    ConstantVelocity,
    Damped,
    LinearAR,
    NeuralTransition,
    Transition,
)

__all__ = [
    "After",
    "AtLag",
    "Bilinear",
    "ChainStep",
    "ConstantVelocity",
    "Cosine",
    "Coupling",
    "CouplingSum",
    "Damped",
    "Directions",
    "GaussianRBF",
    "GeneralisedNormal",
    "Groups",
    "JointCritic",
    "Laplace",
    "LinearAR",
    "LinearDynamics",
    "NeuralTransition",
    "OnDimensions",
    "SeparableCritic",
    "StepLength",
    "StudentT",
    "Switching",
    "Transition",
    "VonMisesFisher",
    "chain_steps",
    "latent_names",
    "steps_by_coupling",
]
