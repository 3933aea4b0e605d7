"""The centre-of-mass CNN of Fig. 2."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from recparam.networks.fused.step import Statistics, conv_centre_of_mass, fused_available
from recparam.networks.sizes import check_counts
from recparam.ops.compile import readable


class CentreOfMassCNN(nn.Module):
    """The encoder of Fig. 2: two small convolutions whose feature maps are read as the places of objects.

        m = sigmoid(BN(conv3x3(relu(BN(conv3x3(x))))))          (B, maps, H, W)
        x_k = sum_i i p_k(i),  p_k(i) = sum_h m[k, h, i] / sum_{h, w} m[k, h, w]        and y_k likewise

    Output is in pixels, ``(x_1, y_1, x_2, y_2, ...)``; pixel ``i`` has coordinate ``i``, x counts columns and
    y counts rows.

    Args:
        in_channels: channels of the frames.
        maps: number of feature maps, hence of places.
        hidden: number of maps after the first convolution.
        pixel: pixels of a side of what each pixel of the frames is the mean of; places are in those.
        fused: one fused step in place of the plain PyTorch one on a CPU. None takes it where it applies (it is
            built, float32 parameters, layers as they were made and without hooks, frames that need no gradient, no
            torch.compile, tracing or torch.func; in training mode, or in evaluation mode under `torch.no_grad()`);
            True insists on it in training mode; False never takes it.

    Attributes:
        latent_dim: width of the output, ``2 * maps``.

    Raises:
        ValueError: a count that is not positive.

    Example:
        >>> CentreOfMassCNN()(torch.rand(4, 3, 16, 16)).shape
        torch.Size([4, 6])
    """

    def __init__(
        self, in_channels: int = 3, maps: int = 3, hidden: int = 6, *, pixel: int = 1, fused: bool | None = None
    ) -> None:
        super().__init__()
        check_counts({"in_channels": in_channels, "maps": maps, "hidden": hidden, "pixel": pixel})
        self.in_channels = in_channels
        self.latent_dim = 2 * maps
        self.pixel, self.fused = pixel, fused
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, maps, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(maps)

    def forward(self, x: Tensor) -> Float[Tensor, "batch latent"]:
        """Places of the objects in each frame.

        Args:
            x: frames, ``(B, C, H, W)`` or ``(B, H, W, C)`` (taken as the latter when only the last dimension
                equals ``in_channels``), or ``(B, H, W)`` with one channel; floats in [0, 1], or uint8, which is
                divided by 255.

        Returns:
            ``(B, 2 * maps)``: x and y of each map's centre of mass, in pixels.

        Raises:
            ValueError: frames of another shape or type.
            RuntimeError: ``fused=True`` in training mode where the fused step does not apply.
        """
        frames = self._channels_first(x)
        fused = self._takes_fused(frames)
        places = self._fused_forward(frames) if fused else centres_of_mass(self._maps(frames))
        return places if self.pixel == 1 else places * self.pixel + (self.pixel - 1) / 2

    def maps(self, x: Tensor) -> Float[Tensor, "batch maps height width"]:
        """The feature maps whose centres of mass `forward` returns, each entry in (0, 1).

        Args:
            x: frames, as for `forward`.

        Returns:
            ``(B, maps, H, W)``.
        """
        return self._maps(self._channels_first(x))

    def extra_repr(self) -> str:
        """What the submodules do not show."""
        return f"fused={self.fused}"

    def _channels_first(self, x: Tensor) -> Tensor:
        channels = self.in_channels
        if x.ndim == 3 and channels == 1:
            x = x[:, None]
        if x.ndim == 4 and x.shape[1] != channels and x.shape[-1] == channels:
            x = x.permute(0, 3, 1, 2)
        if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
            raise ValueError(
                f"Expected frames of shape (B, {channels}, H, W) or (B, H, W, {channels}) with in_channels="
                f"{channels}; got {tuple(x.shape)}."
            )
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise ValueError(f"Expected frames to be uint8, or floats in [0, 1]; got {x.dtype}.")
        return x

    def _maps(self, frames: Tensor) -> Tensor:
        dtype = self.conv1.weight.dtype
        if frames.dtype == torch.uint8:  # bytes stay bytes until here
            frames = frames.to(dtype, memory_format=torch.contiguous_format).div_(255)
        frames = frames.to(dtype)
        # In place: batch norm needs its input for the backward pass, not its output.
        return self.norm2(self.conv2(self.norm1(self.conv1(frames)).relu_())).sigmoid_()

    def _takes_fused(self, frames: Tensor) -> bool:
        training = self.norm1.training and self.norm2.training
        evaluation = not self.norm1.training and not self.norm2.training
        if self.fused is False or not (training or evaluation):
            return False
        tensors = [*self._parameters_in_order(), *(self._running_statistics() if evaluation else ())]
        if evaluation and torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            return False
        applies = (
            all(_is_made(layer) for layer in (self.conv1, self.norm1, self.conv2, self.norm2))
            and not _has_any_global_hook()
            and not torch.is_autocast_enabled("cpu")
            and not frames.requires_grad
            and frames.dtype in (torch.uint8, torch.float32)
            and all(t is not None and t.dtype == torch.float32 for t in tensors)
            and readable(frames, *(t for t in tensors if t is not None))
            and fused_available()
        )
        if self.fused and training and not applies:
            raise RuntimeError(
                "fused=True, but the fused step does not apply: it needs its compiled kernel, a CPU, float32 "
                "parameters, layers as they were made and without hooks, uint8 or float32 frames that need no "
                "gradient, and neither autocast nor torch.compile. Use fused=None to fall back to plain PyTorch."
            )
        return applies

    def _parameters_in_order(self) -> list[Tensor | None]:
        layers = (self.conv1, self.norm1, self.conv2, self.norm2)
        return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]

    def _running_statistics(self) -> list[Tensor | None]:
        return [tensor for norm in (self.norm1, self.norm2) for tensor in (norm.running_mean, norm.running_var)]

    def _fused_forward(self, frames: Tensor) -> Tensor:
        one, two = self.norm1, self.norm2
        statistics = None if one.training else cast(Statistics, tuple(self._running_statistics()))
        parameters = cast(list[Tensor], self._parameters_in_order())
        centres, mean1, variance1, mean2, variance2 = conv_centre_of_mass(
            frames.contiguous(), *parameters, statistics=statistics, eps1=one.eps, eps2=two.eps
        )
        if statistics is not None:
            return centres
        count = frames.shape[0] * frames.shape[2] * frames.shape[3]
        _track(one, mean1, variance1, count)
        _track(two, mean2, variance2, count)
        return centres


def _is_made(layer: nn.Module) -> bool:
    """Whether a layer is what `CentreOfMassCNN` made, and calls no hook."""
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return False
    if type(layer) is nn.Conv2d:
        shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode)
        return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
    return type(layer) is nn.BatchNorm2d


def centres_of_mass(m: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch places"]:
    """``(x_1, y_1, x_2, y_2, ...)`` in pixels."""
    across, down = m.sum(2), m.sum(3)  # (B, maps, W), (B, maps, H)
    total = across.sum(2)
    places: list[Tensor] = []
    for marginal in (across, down):
        # About the middle of the axis, where rounding costs least.
        middle = (marginal.shape[2] - 1) / 2
        axis = torch.arange(marginal.shape[2], dtype=m.dtype, device=m.device) - middle
        places.append(marginal @ axis / total + middle)
    return torch.stack(places, 2).flatten(1)


@torch.no_grad()
def _track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update running statistics as nn.BatchNorm2d does; `variance` is biased, what is tracked is not."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    weight = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean), weight)
    norm.running_var.lerp_(variance.to(norm.running_var) * (count / (count - 1)), weight)
