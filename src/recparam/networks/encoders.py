"""Encoders of vectors, frames and windows, and the layer that standardises what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.networks.sizes import check_counts


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
        check_counts(dict(zip(names, widths, strict=True)))
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
        check_counts(sizes | {"hidden": hidden} | {f"maps[{i}]": m for i, m in enumerate(maps)})
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


class SmoothedMLP(nn.Module):
    """A weighted mean of the rows of a window, then a multilayer perceptron.

        z = MLP(dropout(sqrt(h + 1) sum_w a_w x_w)),    a = softmax(b),    h = (W - 1)/2

    The weights a are learned, of each distance from the middle row one, and shared by all columns. At first they fall
    off from the middle. The network takes one half of a window, too, the middle row last; the weights of the rows
    that are there sum to one. The root leaves the noise of independent rows at its size. Dropout takes a column from
    all rows.

    Args:
        in_features: width of a row.
        window: rows in a window, an odd number.
        out_features: width of the output.
        hidden: widths of the hidden layers.
        dropout: share of the columns that are set to zero in training.

    Attributes:
        latent_dim: width of the output, ``out_features``.

    Raises:
        ValueError: a size that is not positive, or an even window.

    Example:
        >>> SmoothedMLP(10, window=5, out_features=2)(torch.rand(4, 5, 10)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        in_features: int,
        *,
        window: int,
        out_features: int,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_counts({"window": window})
        if window % 2 == 0:
            raise ValueError(f"Expected window as an odd number of rows, with one in the middle; got {window}.")
        self.shape, self.latent_dim = (window, in_features), out_features
        self.weights = nn.Parameter(-2 * torch.linspace(-1, 0, window // 2 + 1).square())  # the farthest row first
        self.dropout, self.net = nn.Dropout(dropout), MLP(in_features, out_features, hidden=hidden)

    def forward(self, x: Tensor) -> Float[Tensor, "batch out"]:
        """Map a batch.

        Args:
            x: ``(B, window, in_features)``, floats, or ``(B, (window + 1)/2, in_features)``, the middle row last.

        Returns:
            ``(B, out_features)``.

        Raises:
            ValueError: windows of another shape.
        """
        rows, width = self.shape
        half = len(self.weights)
        if x.ndim != 3 or x.shape[1] != half:
            check_windows(x, (rows, width))
        elif x.shape[2] != width:
            check_windows(x, (half, width))
        weights = self.weights if x.shape[1] == half else torch.cat([self.weights, self.weights[:-1].flip(0)])
        smoothed = weights.softmax(0) @ x * math.sqrt(half)
        return self.net(self.dropout(smoothed))


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
        check_counts(sizes | {"maps": maps, "hidden": hidden})
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
        check_windows(x, self.shape)
        return self.layers(x.mT)


def check_windows(x: Tensor, shape: tuple[int, int]) -> None:
    """Raise `ValueError` unless x is a batch of windows of a shape, (rows, columns)."""
    if x.ndim != 3 or x.shape[1:] != shape:
        raise ValueError(f"Expected windows of shape (B, {shape[0]}, {shape[1]}); got {tuple(x.shape)}.")


class Pooled(nn.Module):
    """A network that is given means over patches of frames, rounded where frames are bytes.

    Args:
        net: takes frames ``(B, h, w, ...)``.
        factor: pixels of a side of a patch.
        shape: sides h and w of the pooled frames; frames of this size pass as they are.

    Example:
        >>> net = Pooled(nn.Identity(), factor=2, shape=(1, 2))
        >>> net(torch.tensor([[[0, 1, 4, 4], [1, 2, 4, 5]]], dtype=torch.uint8))
        tensor([[[1, 4]]], dtype=torch.uint8)
    """

    def __init__(self, net: nn.Module, *, factor: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.factor, self.shape = net, factor, shape

    def pool(self, x: Tensor) -> Tensor:
        """The means over patches, ``(B, h, w, ...)``, of the type of x; those at the edge may be of fewer pixels."""
        frames = x[..., None] if x.ndim == 3 else x
        means = nn.functional.avg_pool2d(frames.permute(0, 3, 1, 2).float(), self.factor, ceil_mode=True)
        means = means.permute(0, 2, 3, 1).reshape(*x.shape[:1], *self.shape, *x.shape[3:])
        return means.round().to(torch.uint8) if x.dtype == torch.uint8 else means

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch of frames, ``(B, H, W)`` or ``(B, H, W, C)``, pooled or not."""
        return self.net(x if tuple(x.shape[1:3]) == self.shape else self.pool(x))


class Standardised(nn.Module):
    """A network whose input is standardised, and spoiled in training, as part of the encoder.

        net(dropout((x - mean) / scale))

    A mean in double precision is subtracted in double precision: of x far from zero, single precision would round away
    what x varies by. It comes of rows in double precision; saved states keep it. Not every device has that.

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
            rows: floats, ``(N, ...)``, of the precision in which to subtract their mean. NaN is passed over. An entry
                that never changes keeps a scale of one.

        Raises:
            ValueError: an entry is NaN in all rows.
        """
        mean = rows.nanmean(0)
        if bool(mean.isnan().any()):
            entry = tuple(mean.isnan().nonzero()[0].tolist())
            raise ValueError(
                f"Expected a value in each column of the fitted rows; got none in {entry}. Leave such columns out."
            )
        if rows.dtype == torch.float64 and self.mean.dtype != torch.float64:
            self.mean = self.mean.double()
        self.mean.copy_(mean)
        centred = rows - self.mean
        spread = centred.square().nanmean(0).sqrt() if self.scale.ndim else centred.square().nanmean().sqrt()
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise a batch and map it."""
        return self.net(self.dropout((x.to(self.mean.dtype) - self.mean).to(self.scale.dtype) / self.scale))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}mean")
        if isinstance(saved, Tensor) and saved.dtype == torch.float64:
            self.mean = self.mean.double()
        super()._load_from_state_dict(state_dict, prefix, *rest)
