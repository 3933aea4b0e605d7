"""Places of what moves before a still background."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.networks.centre_of_mass import centres_of_mass
from recparam.networks.sizes import check_counts

_BACKGROUND_ROWS = 1000  # of which the background is the median
_LEVELS = 50  # what differs by less than this part of the root mean square of all is noise, where rows are no integers
_THRESHOLD = 4.0  # deviations from the background, from which a pixel is foreground


class ForegroundCNN(nn.Module):
    """An encoder for a still camera: places of what differs from the background, told apart by a small network.

        d = (x - background) / noise                            (B, H, W, C)
        m_k = asinh(max(|d| - 4, 0)) sigmoid(net(d / (4 + |d|)))_k       (B, maps, H, W)

    The background is the median of each pixel, and its noise 1.48 times the median absolute deviation, |d| is the root
    mean square over channels, and the network has a convolution of 5 x 5 and one of 3 x 3 whose pixels are two apart.
    Output is the centre of mass of each map, ``(x_1, y_1, x_2, y_2, ...)``, as of `CentreOfMassCNN`. A frame without
    foreground has the middle of the frame.

    Args:
        height: of the frames.
        width: of the frames.
        in_channels: of the frames.
        maps: number of maps, hence of places.
        hidden: maps of each convolution.
        pixel: pixels of a side of what each pixel of the frames is the mean of; places are in those.

    Attributes:
        latent_dim: width of the output, ``2 * maps``.

    Raises:
        ValueError: a count that is not positive.

    Example:
        >>> frames = torch.zeros(9, 8, 8, 1)
        >>> frames[range(8), 2, range(8)] = 1.0
        >>> net = ForegroundCNN(height=8, width=8, maps=1, in_channels=1)
        >>> net.set_from(frames)
        >>> net(frames)[3].round()
        tensor([3., 2.], grad_fn=<RoundBackward0>)
    """

    background: Tensor
    noise: Tensor

    def __init__(
        self, height: int, width: int, in_channels: int = 3, maps: int = 1, hidden: int = 8, *, pixel: int = 1
    ) -> None:
        super().__init__()
        sizes = {"height": height, "width": width, "in_channels": in_channels, "maps": maps}
        check_counts(sizes | {"hidden": hidden, "pixel": pixel})
        self.latent_dim, self.pixel = 2 * maps, pixel
        self.register_buffer("background", torch.zeros(height, width, in_channels))
        self.register_buffer("noise", torch.ones(height, width, in_channels))
        self.net = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(hidden, maps, 1),
        )

    @torch.no_grad()
    def set_from(self, rows: Tensor) -> None:
        """Take background and noise from frames.

        Args:
            rows: frames, as for `forward`; where all are whole numbers that differ by eight or more, the noise is at
                least one.
        """
        rows = self._frames(rows[:: -(-len(rows) // _BACKGROUND_ROWS)]).to(self.background.dtype)
        self.background.copy_(rows.nanmedian(0).values)
        apart = (rows - self.background).abs()
        whole = bool(((rows == rows.round()) | rows.isnan()).all())
        known = apart[~apart.isnan()]
        spread = known.square().mean().sqrt()
        least = min(1.0, float(known.max()) / (2 * _THRESHOLD)) if whole else float(spread) / _LEVELS
        least = max(least, torch.finfo(rows.dtype).tiny)
        middle = 1.48 * apart.nanmedian(0).values
        self.noise.copy_(middle.clamp_min(max(least, float(middle.nanmedian()))))

    def forward(self, x: Tensor) -> Float[Tensor, "batch latent"]:
        """Places of what is before the background.

        Args:
            x: frames, ``(B, H, W, C)``, or ``(B, H, W)`` with one channel.

        Returns:
            ``(B, 2 * maps)``: x and y of each map's centre of mass, in pixels.

        Raises:
            ValueError: frames of another shape.
        """
        places = centres_of_mass(self.maps(x) + 1e-6)
        return places if self.pixel == 1 else places * self.pixel + (self.pixel - 1) / 2

    def maps(self, x: Tensor) -> Float[Tensor, "batch maps height width"]:
        """The maps whose centres of mass `forward` returns, each entry at least 0.

        Args:
            x: frames, as for `forward`.
        """
        d = ((self._frames(x) - self.background) / self.noise).permute(0, 3, 1, 2)
        size = d.abs()
        foreground = (d.square().mean(1, keepdim=True).sqrt() - _THRESHOLD).clamp_min(0).asinh()
        return foreground * self.net(d / (_THRESHOLD + size)).sigmoid()

    def _frames(self, x: Tensor) -> Tensor:
        shape = tuple(self.background.shape)
        frames = x[..., None] if shape[-1] == 1 and x.shape[1:] == shape[:2] else x
        if frames.ndim != 4 or frames.shape[1:] != shape:
            raise ValueError(f"Expected frames of shape (B, {', '.join(map(str, shape))}); got {tuple(x.shape)}.")
        return frames
