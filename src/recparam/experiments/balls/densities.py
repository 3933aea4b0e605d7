"""The predicted density of Figure 1D and E: where the model thinks ball 0 goes next."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

import recparam as rp
from recparam.evaluation import LinearDecoder
from recparam.experiments.balls.models import order_of
from recparam.ops import SquaredDistance, pairwise_logmeanexp

GRID = 64
"""Points per side of the grid on which a density is drawn."""


def predicted_density(
    model: rp.RPM,
    decoder: LinearDecoder,
    z_train: Float[Tensor, "train dim"],
    z_fresh: Float[Tensor, "fresh dim"],
    decoded: Float[Tensor, "fresh balls 2"],
    true: Float[Tensor, "fresh balls 2"],
    *,
    size: int,
) -> dict[str, NDArray[Any]]:
    """Return the model's density of the next place of ball 0, for one frame of the fresh video.

    The grid covers the frame in true coordinates of ball 0. It is carried into latent space by inverting the
    linear decoder y = A z + b with the coordinates of the other balls held at their decoded values in the
    current frame. On it, f / Z under a uniform base (the paper's picture of Eq. 26) and the same times an
    estimate of R(z'). See also: Eq. 26.

    Args:
        model: trained model, on the CPU.
        decoder: fitted linear decoder from latents to true coordinates.
        z_train: latents of the training video, from which R(z') is estimated.
        z_fresh: latents of the fresh video.
        decoded: decoded centres of the fresh video, pixels.
        true: true centres of the fresh video, pixels.
        size: width of a frame in pixels.

    Returns:
        `density_uniform` and `density_marginal`, (GRID, GRID) with rows along y, each summing to 1 over the
        frame; `density_axis`, the grid's coordinates in pixels; `density_frame`, the index of the frame.
    """
    # The frame whose ball 0 is nearest the middle: a prediction cut off by the frame would be harder to read.
    # The last frame has no next place, and the first too few before it for a prior that reads two.
    order = order_of(model)
    middle = torch.full((2,), (size - 1) / 2)
    frame = order - 1 + int((true[order - 1 : -1, 0] - middle).norm(dim=-1).argmin())
    axis = torch.linspace(0, size - 1, GRID)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    places = decoded[frame].flatten().repeat(GRID * GRID, 1)
    places[:, 0] = x.flatten()
    places[:, 1] = y.flatten()
    # From the current latents, so that what the decoder cannot see (collapsed latents) stays where it is.
    step = (places - decoded[frame].flatten()).double()
    latents = z_fresh[frame].double() + step @ torch.linalg.pinv(decoder_matrix(decoder)).mT
    base = torch.from_numpy(log_density(z_train.numpy(), latents.numpy()))
    base = (base - base.max()).float()  # far from the data it is so low that single precision would flatten it
    latents = latents.float()
    z = z_fresh[frame - order + 1 : frame + 1].reshape(1, -1)
    with torch.no_grad():
        uniform = model.predict(z, latents, base="uniform").reshape(GRID, GRID)
        marginal = model.predict(z, latents, base=base).reshape(GRID, GRID)
    return {
        "density_uniform": uniform.numpy(),
        "density_marginal": marginal.numpy(),
        "density_axis": axis.numpy(),
        "density_frame": np.asarray(frame),
    }


def decoder_matrix(decoder: LinearDecoder) -> Tensor:
    """Return A of the decoder's y = A z + b, in double precision."""
    return torch.as_tensor(decoder.weight).double()


def log_density(
    data: Float[np.ndarray, "data dim"], points: Float[np.ndarray, "points dim"]
) -> Float[np.ndarray, " points"]:
    """Return a kernel estimate of the log-density of the data at the points, in nats, up to a constant.

    Gaussian kernels with the covariance of the data scaled by Scott's rule n^(-1 / (d + 4)). Directions in
    which the data hardly vary (a collapsed latent) get a floor instead of a singular kernel.
    """
    count, dim = data.shape
    mean = data.mean(0)
    values, vectors = np.linalg.eigh(np.cov(data.astype(np.float64), rowvar=False))
    spread = np.sqrt(np.maximum(values, max(values.max() * 1e-8, 1e-12)))
    bandwidth = count ** (-1 / (dim + 4))
    whiten = vectors / (spread * bandwidth)
    kernel = SquaredDistance(torch.ones((), dtype=torch.float64))
    centres = torch.from_numpy((data - mean) @ whiten)
    return pairwise_logmeanexp(kernel, torch.from_numpy((points - mean) @ whiten), centres).numpy()
