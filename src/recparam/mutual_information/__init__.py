"""The mutual information of paired data, bounded by flexible critics on held-out pairs."""

from recparam.mutual_information.estimate import MutualInformationEstimate, estimate_mutual_information

__all__ = [
    "MutualInformationEstimate",
    "estimate_mutual_information",
]
