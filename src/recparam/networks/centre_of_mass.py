"""The centre-of-mass CNN of Fig. 2."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.networks.sizes import check_counts
from recparam.ops.centre_of_mass import conv_centre_of_mass, conv_centre_of_mass_in_evaluation, fused_available


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
        fused: one fused step in place of the plain PyTorch one on a CPU. None takes it where it applies (it is
            built, float32 parameters, frames that need no gradient, no torch.compile; in training mode, or in
            evaluation mode under `torch.no_grad()`); True insists on it in training mode; False never takes it.

    Attributes:
        latent_dim: width of the output, ``2 * maps``.

    Raises:
        ValueError: a count that is not positive.

    Example:
        >>> CentreOfMassCNN()(torch.rand(4, 3, 16, 16)).shape
        torch.Size([4, 6])
    """

    def __init__(
        self, in_channels: int = 3, maps: int = 3, hidden: int = 6, *, fused: bool | None = None
    ) -> None:
        super().__init__()
        check_counts({"in_channels": in_channels, "maps": maps, "hidden": hidden})
        self.in_channels = in_channels
        self.latent_dim = 2 * maps
        self.fused = fused
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, maps, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(maps)

    def forward(self, x: Tensor) -> Float[Tensor, "batch latent"]:
        """Places of the objects in each frame.

        Args:
            x: frames, ``(B, C, H, W)`` or ``(B, H, W, C)`` (taken as the latter when only the last dimension
                equals ``in_channels``); floats in [0, 1], or uint8, which is divided by 255.

        Returns:
            ``(B, 2 * maps)``: x and y of each map's centre of mass, in pixels.

        Raises:
            ValueError: frames of another shape or type.
            RuntimeError: ``fused=True`` in training mode where the fused step does not apply.
        """
        frames = self._channels_first(x)
        if self._takes_fused(frames):
            return self._fused_forward(frames)
        return _centres_of_mass(self._maps(frames))

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
        norms = self.norm1, self.norm2
        training = all(norm.training for norm in norms)
        parameters = list(self.parameters())
        evaluation = (
            all(not norm.training and norm.running_mean is not None for norm in norms)
            and not (torch.is_grad_enabled() and any(p.requires_grad for p in parameters))
        )
        if self.fused is False or not (training or evaluation):
            return False
        applies = (
            not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
            and not torch.is_autocast_enabled("cpu")
            and not frames.requires_grad
            and frames.device.type == "cpu"
            and frames.dtype in (torch.uint8, torch.float32)
            and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters)
            and fused_available()
        )
        if self.fused and training and not applies:
            raise RuntimeError(
                "fused=True, but the fused step does not apply: it needs its compiled kernel, a CPU, float32 "
                "parameters, uint8 or float32 frames that need no gradient, and neither autocast nor "
                "torch.compile. Use fused=None to fall back to plain PyTorch."
            )
        return applies

    def _fused_forward(self, frames: Tensor) -> Tensor:
        one, two = self.norm1, self.norm2
        inputs = (
            frames.contiguous(),
            self.conv1.weight,
            cast(Tensor, self.conv1.bias),
            one.weight,
            one.bias,
            self.conv2.weight,
            cast(Tensor, self.conv2.bias),
            two.weight,
            two.bias,
        )
        if not one.training:
            return conv_centre_of_mass_in_evaluation(
                *inputs,
                mean1=cast(Tensor, one.running_mean),
                var1=cast(Tensor, one.running_var),
                mean2=cast(Tensor, two.running_mean),
                var2=cast(Tensor, two.running_var),
                eps1=one.eps,
                eps2=two.eps,
            )
        centres, mean1, variance1, mean2, variance2 = conv_centre_of_mass(*inputs, eps1=one.eps, eps2=two.eps)
        count = frames.shape[0] * frames.shape[2] * frames.shape[3]
        _track(one, mean1, variance1, count)
        _track(two, mean2, variance2, count)
        return centres


def _centres_of_mass(m: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch places"]:
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
