"""Two batch-normalised convolutions, sigmoid and centre of mass: in torch operations, and fused on the CPU.

The fused path is C compiled at first use and kept in a cache directory; nothing happens on import.
docs/fused-step.md derives what it computes.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from recparam.ops import compile

__all__ = [
    "conv_centre_of_mass",
    "conv_centre_of_mass_reference",
    "fused_available",
    "why_unavailable",
]

Frames = Float[Tensor, "batch channels height width"] | UInt8[Tensor, "batch channels height width"]
Statistics = tuple[Tensor, Tensor, Tensor, Tensor]
"""Mean and biased variance of the first convolution's output, (hidden,) each, and of the second's, (maps,) each."""
Result = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

_FOLDER = Path(__file__).parent
_PARAMETERS = ("weight1", "bias1", "gamma1", "beta1", "weight2", "bias2", "gamma2", "beta2")
_STATISTICS = ("mean1", "var1", "mean2", "var2")


def conv_centre_of_mass_reference(
    frames: Frames,
    weight1: Float[Tensor, "hidden channels 3 3"],
    bias1: Float[Tensor, " hidden"],
    gamma1: Float[Tensor, " hidden"],
    beta1: Float[Tensor, " hidden"],
    weight2: Float[Tensor, "maps hidden 3 3"],
    bias2: Float[Tensor, " maps"],
    gamma2: Float[Tensor, " maps"],
    beta2: Float[Tensor, " maps"],
    *,
    statistics: Statistics | None = None,
    eps1: float = 1e-5,
    eps2: float = 1e-5,
) -> Result:
    """Compute what `conv_centre_of_mass` computes, from torch operations, in the parameters' dtype.

    Args and Returns: see `conv_centre_of_mass`; frames may have any floating dtype here.
    """
    x = frames.to(weight1.dtype) / 255 if frames.dtype == torch.uint8 else frames
    mean1, var1, mean2, var2 = statistics or (None, None, None, None)
    own = statistics is None
    z1 = torch.nn.functional.conv2d(x, weight1, bias1, padding=1)
    y1 = torch.nn.functional.batch_norm(z1, mean1, var1, gamma1, beta1, training=own, eps=eps1)
    z2 = torch.nn.functional.conv2d(y1.relu(), weight2, bias2, padding=1)
    y2 = torch.nn.functional.batch_norm(z2, mean2, var2, gamma2, beta2, training=own, eps=eps2)
    m = y2.sigmoid()
    mass = m.sum((2, 3))
    column = torch.arange(m.shape[3], dtype=m.dtype, device=m.device)
    row = torch.arange(m.shape[2], dtype=m.dtype, device=m.device)
    centres = torch.stack([(m.sum(2) * column).sum(2) / mass, (m.sum(3) * row).sum(2) / mass], 2).flatten(1)
    if statistics is not None:
        return centres, *statistics
    with torch.no_grad():
        var1, mean1 = torch.var_mean(z1, (0, 2, 3), correction=0)
        var2, mean2 = torch.var_mean(z2, (0, 2, 3), correction=0)
    return centres, mean1, var1, mean2, var2


def conv_centre_of_mass(
    frames: Frames,
    weight1: Float[Tensor, "hidden channels 3 3"],
    bias1: Float[Tensor, " hidden"],
    gamma1: Float[Tensor, " hidden"],
    beta1: Float[Tensor, " hidden"],
    weight2: Float[Tensor, "maps hidden 3 3"],
    bias2: Float[Tensor, " maps"],
    gamma2: Float[Tensor, " maps"],
    beta2: Float[Tensor, " maps"],
    *,
    statistics: Statistics | None = None,
    eps1: float = 1e-5,
    eps2: float = 1e-5,
) -> Result:
    r"""Centres of mass of a two-layer convolutional network's maps, with batch statistics, in one fused step.

    $$ m_k = \sigma(\mathrm{BN}_2(w_2 * \mathrm{ReLU}(\mathrm{BN}_1(w_1 * x)))), \quad
       x_k = \frac{\sum_{h,w} w\, m_k[h, w]}{\sum_{h,w} m_k[h, w]}, \quad
       y_k = \frac{\sum_{h,w} h\, m_k[h, w]}{\sum_{h,w} m_k[h, w]} $$

    Both convolutions pad by one zero. Differentiable once, in the eight parameters; the convolutions' biases
    get zeros, since batch norm removes them. At most `torch.get_num_threads()` threads run, and their number
    does not change the result. The first call compiles the C source, which takes seconds; later ones load it. For given
    statistics, those of running averages say, there are no gradients.

    Args:
        frames: images, (batch, channels, height, width), contiguous, float32, or uint8 (value / 255).
        weight1: first kernels, (hidden, channels, 3, 3).
        bias1: first biases, (hidden,).
        gamma1: first batch norm's scales, (hidden,).
        beta1: first batch norm's offsets, (hidden,).
        weight2: second kernels, (maps, hidden, 3, 3).
        bias2: second biases, (maps,).
        gamma2: second batch norm's scales, (maps,).
        beta2: second batch norm's offsets, (maps,).
        statistics: mean and variance for each batch norm, biases included, float32; None takes the batch's.
        eps1: added to the first batch norm's variance.
        eps2: added to the second batch norm's variance.

    Returns:
        Centres (batch, 2 maps) in pixels, in the order x_1, y_1, x_2, y_2, ..., with x in 0..width - 1 and
        y in 0..height - 1; then the statistics used, the batch's detached: mean1, var1 (hidden,), mean2, var2
        (maps,).

    Raises:
        ValueError: for a shape, dtype, device or layout the C code does not take.
        RuntimeError: if no C compiler works here; `why_unavailable` says why.
    """
    parameters = (weight1, bias1, gamma1, beta1, weight2, bias2, gamma2, beta2)
    _check(frames, parameters, statistics)
    if statistics is None:
        return _ConvCentreOfMass.apply(frames, *parameters, eps1, eps2)
    mean1, var1, mean2, var2 = statistics
    with torch.no_grad():
        size = _size(frames, weight2)
        scale1 = gamma1 * (var1.double() + eps1).rsqrt()
        planes = _planes(frames, size, weight1, scale1, beta1 - scale1 * (mean1.double() - bias1), weight2)[0]
        affine = _affine(mean2.double() - bias2, var2.double() + eps2, gamma2, beta2)
        return _centres(_sums(len(frames), size, planes, affine), size), *statistics


def fused_available() -> bool:
    """Say whether `conv_centre_of_mass` runs here; the first call compiles its C source."""
    return _library() is not None


def why_unavailable() -> str:
    """Say why `conv_centre_of_mass` does not run here; empty if it does."""
    return _build()[1]


def _check(frames: Tensor, parameters: tuple[Tensor, ...], statistics: Statistics | None = None) -> None:
    if frames.ndim != 4 or 0 in frames.shape:
        raise ValueError(
            f"Expected frames (batch, channels, height, width), none of them zero; got {tuple(frames.shape)}. "
            "Add a missing dimension with frames[None]."
        )
    if frames.dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"Expected frames of float32 or uint8; got {frames.dtype}. Use frames.float().")
    if not frames.is_contiguous():
        raise ValueError("Expected contiguous frames; got other strides. Use frames.contiguous().")
    if frames.requires_grad:
        raise ValueError(
            "Expected frames that need no gradient; got frames.requires_grad=True. "
            "Use frames.detach() or conv_centre_of_mass_reference."
        )
    if statistics is None and frames.shape[0] * frames.shape[2] * frames.shape[3] < 2:
        raise ValueError("Expected frames of more than 1 pixel in all, as batch norm does; got 1. Add frames.")
    named: dict[str, Tensor] = dict(zip(_PARAMETERS, parameters, strict=True))
    if statistics is not None:
        named.update(zip(_STATISTICS, statistics, strict=True))
    hidden, maps = len(named["weight1"]), len(named["weight2"])
    kernels = {"weight1": (hidden, frames.shape[1], 3, 3), "weight2": (maps, hidden, 3, 3)}
    for name, tensor in named.items():
        shape = kernels.get(name, (hidden if name.endswith("1") else maps,))
        if tuple(tensor.shape) != shape:
            raise ValueError(f"Expected {name} of shape {shape}; got {tuple(tensor.shape)}.")
        if tensor.dtype != torch.float32:
            raise ValueError(f"Expected {name} of dtype float32; got {tensor.dtype}. Use {name}.float().")
    for name, tensor in {"frames": frames, **named}.items():
        if tensor.device.type != "cpu":
            raise ValueError(f"Expected {name} on the CPU; got {tensor.device}. Use {name}.cpu().")
    if _library() is None:
        raise RuntimeError(
            f"conv_centre_of_mass needs a C compiler: {why_unavailable()}. "
            "Install one, name it in the environment variable CC, or use conv_centre_of_mass_reference."
        )


class _ConvCentreOfMass(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        frames: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        gamma1: Tensor,
        beta1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        gamma2: Tensor,
        beta2: Tensor,
        eps1: float,
        eps2: float,
    ) -> Result:
        batch, channels, height, width = frames.shape
        hidden, pixels = weight1.shape[0], batch * height * width
        size = _size(frames, weight2)

        # Layer 1: z1 is linear in the patch, so its statistics follow from the patch's.
        patch_mean, covariance = _doubles(9 * channels), _doubles(9 * channels, 9 * channels)
        _call("recparam_patch_moments", *_source(frames), *size[1:], patch_mean, covariance)
        w1 = weight1.double().reshape(hidden, -1)
        mean1 = w1 @ patch_mean
        w1_covariance = w1 @ covariance
        var1 = (w1_covariance * w1).sum(1).clamp_min(0)
        scale1 = gamma1 * (var1 + eps1).rsqrt()

        # Layer 2: its maps before batch norm are kept, and are all that is kept for every pixel.
        planes, moments, folded1, offset1 = _planes(frames, size, weight1, scale1, beta1 - scale1 * mean1, weight2)
        mean2, square2 = (moments.sum(0) / pixels).unbind(1)
        var2 = (square2 - mean2.square()).clamp_min(0)
        affine = _affine(mean2, var2 + eps2, gamma2, beta2)
        sums = _sums(batch, size, planes, affine)
        centres = _centres(sums, size)

        ctx.eps1, ctx.size = eps1, size
        layer1 = weight1, gamma1, patch_mean, w1_covariance, var1, folded1, offset1
        ctx.save_for_backward(frames, *layer1, weight2, planes, affine, sums)
        statistics = (mean1 + bias1).float(), var1.float(), (mean2 + bias2).float(), var2.float()
        ctx.mark_non_differentiable(*statistics)
        return centres, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        frames, *layer1, weight2, planes, affine, sums = ctx.saved_tensors
        weight1, gamma1, patch_mean, w1_covariance, var1, folded1, offset1 = layer1
        batch, channels, height, width = frames.shape
        hidden, maps = weight1.shape[0], weight2.shape[0]
        mass = sums[:, :, 0, :1]
        by_place = grad.double().reshape(batch, maps, 2) / mass
        level = -(by_place * sums[:, :, 0, 1:] / mass).sum(2, keepdim=True)
        slopes = torch.cat([level, by_place], 2)
        beta2_grad, gamma2_grad = (sums[:, :, 1:] * slopes[:, :, None]).sum((0, 3)).unbind(1)
        means = torch.stack([beta2_grad, gamma2_grad], 1) / (batch * height * width)

        back = weight2.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, hidden).contiguous()
        ends = 9 * channels * hidden, 9 * maps * hidden, hidden
        out = _doubles(batch, sum(ends))
        inputs = (folded1, offset1, back, planes, affine, slopes.float(), means.float())
        _call("recparam_gradients", *_source(frames), hidden, *ctx.size, *inputs, out)
        patches, planes_grad, beta1_grad = out.sum(0).split(ends)
        weight2_grad = planes_grad.reshape(hidden, maps, 3, 3).transpose(0, 1).flip(2, 3)

        # Layer 1: batch norm's two corrections to sum_p g[p] patch[p], from the patch's moments.
        centred = patches.reshape(hidden, -1) - beta1_grad[:, None] * patch_mean
        inverse = (var1 + ctx.eps1).rsqrt()
        gamma1_grad = (weight1.double().reshape(hidden, -1) * centred).sum(1) * inverse
        corrected = centred - (gamma1_grad * inverse)[:, None] * w1_covariance
        weight1_grad = (gamma1 * inverse)[:, None] * corrected
        first = (weight1_grad.reshape(weight1.shape), inverse.new_zeros(hidden), gamma1_grad, beta1_grad)
        second = (weight2_grad, inverse.new_zeros(maps), gamma2_grad, beta2_grad)
        return None, *(g.float() for g in (*first, *second)), None, None


Size = tuple[int, int, int, int]
"""Maps, height, width and threads, as the C functions take them."""


def _size(frames: Tensor, weight2: Tensor) -> Size:
    return weight2.shape[0], frames.shape[2], frames.shape[3], torch.get_num_threads()


def _source(frames: Tensor) -> tuple[Tensor, int, int, int]:
    return frames, int(frames.dtype == torch.uint8), frames.shape[0], frames.shape[1]


def _planes(
    frames: Tensor, size: Size, weight1: Tensor, scale1: Tensor, offset1: Tensor, weight2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The second convolution's output without its bias, for a first batch norm that scales and offsets.

    Returns:
        (batch, maps, height, padded width); its sums and sums of squares (batch, maps, 2); the kernels and the
        offsets of the first convolution and batch norm as one.
    """
    maps, height, width, _ = size
    hidden = weight1.shape[0]
    wide = -(-width // 32) * 32  # as in the C source: rows are padded to whole vectors
    folded1 = (weight1.double().reshape(hidden, -1) * scale1[:, None]).t().float().contiguous()
    offset1 = offset1.float()
    planes = torch.empty(len(frames), maps, height, wide, dtype=torch.float32, device="cpu")
    moments = _doubles(len(frames), maps, 2)
    taps2 = weight2.reshape(maps, -1).t().contiguous()
    _call("recparam_planes", *_source(frames), hidden, *size, folded1, offset1, taps2, planes, moments)
    return planes, moments, folded1, offset1


def _affine(mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """The second batch norm, (maps, 4): mean, 1 / standard deviation, scale and offset."""
    return torch.stack([mean, variance.rsqrt(), gamma.double(), beta.double()], 1).float()


def _sums(batch: int, size: Size, planes: Tensor, affine: Tensor) -> Tensor:
    sums = _doubles(batch, size[0], 3, 3)
    _call("recparam_sums", batch, *size, planes, affine, sums)
    return sums


def _centres(sums: Tensor, size: Size) -> Tensor:
    _, height, width, _ = size
    offset = sums.new_tensor([(width - 1) / 2, (height - 1) / 2])
    return (sums[:, :, 0, 1:] / sums[:, :, 0, :1] + offset).float().flatten(1)


def _doubles(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device="cpu")


def _call(name: str, *arguments: Tensor | int) -> None:
    """Call a C function. The caller holds the tensors, so they outlive the call."""
    library = _library()
    if library is None:
        raise RuntimeError(why_unavailable())
    compile.call(library, name, *arguments)


def _library() -> ctypes.CDLL | None:
    return _build()[0]


@functools.cache
def _build() -> tuple[ctypes.CDLL | None, str]:
    """The compiled C source, or why there is none."""
    return compile.build(_FOLDER / "centre_of_mass.c", _FOLDER / "rows.h", compile.VECTORS)
