"""Conformance checks for couplings, priors, recognition models, posteriors and marginals, the library's and users' own.

    from recparam.testing import check_coupling
    check_coupling(lambda dim: MyCoupling(dim))

Each check builds small objects from a constructor, states one property at a time and raises `ConformanceError`
with the property's name. It works on torch's default device (`with torch.device("cuda"): ...` for a GPU). The
dictionaries list what the library ships. Nothing here needs a test framework.
"""

from recparam.testing.checks import (
    ConformanceError,
    check_coupling,
    check_marginal,
    check_posterior,
    check_prior,
    check_recognition,
)
from recparam.testing.shipped import COUPLINGS, INPUT_WIDTH, MARGINALS, POSTERIORS, PRIORS, RECOGNITION_MODELS

__all__ = [
    "COUPLINGS",
    "ConformanceError",
    "INPUT_WIDTH",
    "MARGINALS",
    "POSTERIORS",
    "PRIORS",
    "RECOGNITION_MODELS",
    "check_coupling",
    "check_marginal",
    "check_posterior",
    "check_prior",
    "check_recognition",
]
