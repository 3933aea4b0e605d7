"""Networks ready to use as recognition models: the centre-of-mass CNN of Fig. 2, one of what is before
a still background, an MLP, a small CNN, and convolutions over time.
"""

from recparam.networks.batch_norm import recalibrate_batch_norm
from recparam.networks.centre_of_mass import CentreOfMassCNN
from recparam.networks.encoders import MLP, ConvEncoder, Pooled, SmoothedMLP, Standardised, TemporalConv
from recparam.networks.foreground import ForegroundCNN
from recparam.networks.spheres import OnSphere

__all__ = [
    "MLP",
    "CentreOfMassCNN",
    "ConvEncoder",
    "ForegroundCNN",
    "OnSphere",
    "Pooled",
    "SmoothedMLP",
    "Standardised",
    "TemporalConv",
    "recalibrate_batch_norm",
]
