"""Networks ready to use as recognition models: the centre-of-mass CNN of Fig. 2, an MLP, a small CNN,
and convolutions over time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from recparam.ops.centre_of_mass import conv_centre_of_mass, fused_available

__all__ = ["MLP", "CentreOfMassCNN", "ConvEncoder", "Standardised", "TemporalConv", "recalibrate_batch_norm"]


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
        fused: one fused step in place of the plain PyTorch one in training mode on a CPU. None takes it where
            it applies (it is built, float32 parameters, batch statistics, frames that need no gradient, no
            torch.compile); True insists on it in training mode; False never takes it.

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
        for name, value in (("in_channels", in_channels), ("maps", maps), ("hidden", hidden)):
            _check_count(name, value)
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
        if self.fused is False or not (self.norm1.training and self.norm2.training):
            return False
        parameters = list(self.parameters())
        applies = (
            not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and not frames.requires_grad
            and frames.device.type == "cpu"
            and frames.dtype in (torch.uint8, torch.float32)
            and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters)
            and fused_available()
        )
        if self.fused and not applies:
            raise RuntimeError(
                "fused=True, but the fused step does not apply: it needs its compiled kernel, a CPU, float32 "
                "parameters, uint8 or float32 frames that need no gradient, and neither autocast nor "
                "torch.compile. Use fused=None to fall back to plain PyTorch."
            )
        return applies

    def _fused_forward(self, frames: Tensor) -> Tensor:
        one, two = self.norm1, self.norm2
        centres, mean1, variance1, mean2, variance2 = conv_centre_of_mass(
            frames.contiguous(),
            self.conv1.weight,
            cast(Tensor, self.conv1.bias),
            one.weight,
            one.bias,
            self.conv2.weight,
            cast(Tensor, self.conv2.bias),
            two.weight,
            two.bias,
            eps1=one.eps,
            eps2=two.eps,
        )
        count = frames.shape[0] * frames.shape[2] * frames.shape[3]
        _track(one, mean1, variance1, count)
        _track(two, mean2, variance2, count)
        return centres


class MLP(nn.Module):
    """A multilayer perceptron: linear layers with an activation between them and none after the last.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        hidden: widths of the hidden layers; empty for a linear map.
        activation: makes the module put after each hidden layer.

    Attributes:
        latent_dim: width of the output, ``out_features``.

    Raises:
        ValueError: a width that is not positive.

    Example:
        >>> MLP(10, 2, hidden=(32,))(torch.rand(4, 10)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int] = (256, 256),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden, out_features]
        names = ["in_features", *(f"hidden[{i}]" for i in range(len(hidden))), "out_features"]
        for name, width in zip(names, widths, strict=True):
            _check_count(name, width)
        self.in_features = in_features
        self.latent_dim = out_features
        layers: list[nn.Module] = []
        for width, following in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(width, following), activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, *inputs: Tensor) -> Float[Tensor, "batch out"]:
        """Map a batch.

        Args:
            inputs: ``(B, in_features)``, or several matrices that have that width side by side, as a pair for
                `recparam.AmortisedPosterior`.

        Returns:
            ``(B, out_features)``.

        Raises:
            ValueError: inputs of other shapes.
        """
        shapes = [tuple(x.shape) for x in inputs]
        fits = all(len(s) == 2 and s[0] == shapes[0][0] for s in shapes)
        if not shapes or not fits or sum(s[1] for s in shapes) != self.in_features:
            got = shapes[0] if len(shapes) == 1 else shapes
            raise ValueError(f"Expected x of shape (B, {self.in_features}); got {got}.")
        return self.layers(inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1))


class ConvEncoder(nn.Module):
    """A small CNN for frames: means over patches that leave at most 50 pixels a side, then three convolutions.

    Each convolution halves the sides; what is left is flattened, so that places matter, and read by two linear layers.

    Args:
        height: of the frames.
        width: of the frames.
        in_channels: channels of the frames.
        out_features: width of the output.
        maps: feature maps of the three convolutions.
        hidden: width of the linear layer between.

    Attributes:
        latent_dim: width of the output, ``out_features``.

    Raises:
        ValueError: a size that is not positive.

    Example:
        >>> ConvEncoder(64, 64, out_features=2)(torch.rand(4, 64, 64)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        in_channels: int = 1,
        out_features: int,
        maps: Sequence[int] = (8, 16, 32),
        hidden: int = 64,
    ) -> None:
        super().__init__()
        sizes = {"height": height, "width": width, "in_channels": in_channels, "out_features": out_features}
        for name, value in (sizes | {"hidden": hidden} | {f"maps[{i}]": m for i, m in enumerate(maps)}).items():
            _check_count(name, value)
        self.shape, self.in_channels, self.latent_dim = (height, width), in_channels, out_features
        self.pool = -(-max(height, width) // 50)
        sides = [-(-side // self.pool) for side in (height, width)]
        layers: list[nn.Module] = []
        for before, after in zip((in_channels, *maps), maps, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
            sides = [-(-side // 2) for side in sides]
        wide = maps[-1] * sides[0] * sides[1]
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, out_features)
        )

    def forward(self, x: Tensor) -> Float[Tensor, "batch out"]:
        """Map a batch of frames.

        Args:
            x: ``(B, H, W)`` with one channel, ``(B, H, W, C)`` or ``(B, C, H, W)`` (the former where both fit);
                floats, or uint8, which is divided by 255.

        Returns:
            ``(B, out_features)``.

        Raises:
            ValueError: frames of another shape.
        """
        frames = x[..., None] if x.ndim == 3 else x
        channels = self.in_channels
        if frames.ndim == 4 and frames.shape[1:] == (*self.shape, channels):
            frames = frames.permute(0, 3, 1, 2)
        if frames.ndim != 4 or frames.shape[1:] != (channels, *self.shape):
            raise ValueError(
                f"Expected frames of shape (B, {self.shape[0]}, {self.shape[1]}, {channels}), the size that this "
                f"encoder was made for; got {tuple(x.shape)}. Resize them."
            )
        if frames.dtype == torch.uint8:
            frames = frames.float() / 255
        if self.pool > 1:
            frames = nn.functional.avg_pool2d(frames, self.pool, ceil_mode=True)
        return self.layers(frames)


class TemporalConv(nn.Module):
    """Convolutions over the time of a window, then two linear layers over all of it.

    Args:
        in_features: width of a row.
        window: rows in a window: the receptive field.
        out_features: width of the output.
        maps: features of the two convolutions, each over three rows.
        hidden: width of the linear layer between.

    Attributes:
        latent_dim: width of the output, ``out_features``.

    Raises:
        ValueError: a size that is not positive.

    Example:
        >>> TemporalConv(10, window=5, out_features=2)(torch.rand(4, 5, 10)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self, in_features: int, *, window: int, out_features: int, maps: int = 64, hidden: int = 128
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "window": window, "out_features": out_features}
        for name, value in (sizes | {"maps": maps, "hidden": hidden}).items():
            _check_count(name, value)
        self.shape, self.latent_dim = (window, in_features), out_features
        self.layers = nn.Sequential(
            nn.Conv1d(in_features, maps, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(maps, maps, 3, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(maps * window, hidden),
            nn.GELU(),
            nn.Linear(hidden, out_features),
        )

    def forward(self, x: Tensor) -> Float[Tensor, "batch out"]:
        """Map a batch of windows.

        Args:
            x: ``(B, window, in_features)``, floats.

        Returns:
            ``(B, out_features)``.

        Raises:
            ValueError: windows of another shape.
        """
        if x.ndim != 3 or x.shape[1:] != self.shape:
            raise ValueError(f"Expected windows of shape (B, {self.shape[0]}, {self.shape[1]}); got {tuple(x.shape)}.")
        return self.layers(x.mT)


class Standardised(nn.Module):
    """A network whose input is standardised, and spoiled in training, as part of the encoder.

        net(dropout((x - mean) / scale))

    Args:
        net: takes what x is, as floats.
        mean: subtracted, of the shape of a row.
        scale: divided by, positive, of that shape or a single number.
        dropout: share of the entries set to zero, their mean, in training: what no single entry can be relied on for.

    Example:
        >>> net = Standardised(nn.Identity(), mean=torch.tensor([1.0]), scale=torch.tensor([2.0]))
        >>> net(torch.tensor([[3.0]]))
        tensor([[1.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, net: nn.Module, *, mean: Tensor, scale: Tensor, dropout: float = 0.0) -> None:
        super().__init__()
        self.net, self.dropout = net, nn.Dropout(dropout)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    @torch.no_grad()
    def set_from(self, rows: Tensor) -> None:
        """Take mean and scale from rows: entry by entry, or one scale for all where it is a single number.

        Args:
            rows: floats, ``(N, ...)``. NaN is passed over. An entry that never changes keeps a scale of one.

        Raises:
            ValueError: an entry is NaN in all rows.
        """
        mean = rows.nanmean(0)
        if bool(mean.isnan().any()):
            entry = tuple(mean.isnan().nonzero()[0].tolist())
            raise ValueError(
                f"Expected a value in each column of the fitted rows; got none in {entry}. Leave such columns out."
            )
        self.mean.copy_(mean)
        centred = rows - self.mean
        spread = centred.square().nanmean(0).sqrt() if self.scale.ndim else centred.square().nanmean().sqrt()
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise a batch and map it."""
        return self.net(self.dropout((x.to(self.mean.dtype) - self.mean) / self.scale))


def recalibrate_batch_norm(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Recompute all running statistics of batch norm as the plain average over the given batches.

    In training, running statistics are an exponential average over past *parameters* as well as past batches,
    so evaluation with them is noisy while the encoder still moves. After this call they belong to the present
    parameters alone. Parameters, training mode and momentum are left as they were; a module without running
    statistics is left alone.

    Args:
        module: any module; it is called on each batch without gradients.
        batches: inputs of the module, as large as those it was trained on.

    Raises:
        ValueError: no batches.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    modes = [(m, m.training) for m in module.modules()]
    momenta = [norm.momentum for norm in norms]
    before = [{name: b.clone() for name, b in norm.named_buffers(recurse=False)} for norm in norms]
    done = False
    try:
        module.eval()  # dropout and the like must not disturb the statistics
        for norm in norms:
            norm.train()
            norm.momentum = None  # the cumulative average
            norm.reset_running_stats()
        with torch.no_grad():
            for batch in batches:
                module(batch)
                done = True
        if not done:
            raise ValueError("Expected batches to hold at least one batch; got none.")
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for submodule, training in modes:
            submodule.training = training


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or value < 1:
        raise ValueError(f"Expected {name} to be a whole number >= 1; got {value!r}.")


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
