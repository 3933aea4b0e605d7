"""Learned couplings: a dot product of two networks, and one network of both latents.

They follow any density ratio, and so assume little of the latents: an encoder under them need not disentangle anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.func import functional_call

from recparam.couplings.base import Coupling
from recparam.ops import BlockScore, DotProduct, MappedSides, Score
from recparam.utils.checks import check_count
from recparam.utils.shown import shown


class SeparableCritic(Coupling):
    """A dot product of two networks.

        log f(z, z') = phi(z) . psi(z')

    Args:
        dim: Width D of z.
        dim_prime: Width D' of z'; None means D.
        features: Outputs of phi and psi.
        hidden: Units of their one hidden layer.

    Raises:
        ValueError: A count below one.
    """

    def __init__(self, dim: int, dim_prime: int | None = None, *, features: int = 32, hidden: int = 64) -> None:
        super().__init__()
        dim_prime = dim if dim_prime is None else dim_prime
        self.dims = _counts(dim, dim_prime, hidden=hidden, features=features)
        self.phi, self.psi = _network(dim, hidden, features), _network(dim_prime, hidden, features)

    def extra_repr(self) -> str:
        """The widths."""
        return shown(dim=self.dims[0], dim_prime=self.dims[1])

    def _check_widths(self, width: int, width_prime: int) -> None:
        _check_widths(self, self.dims, width, width_prime)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return (self.phi(z) * self.psi(z_prime)).sum(-1)

    def _of_z(self, z: Tensor) -> Tensor:
        return _in_precision(self.phi, z)

    def _of_z_prime(self, z_prime: Tensor) -> Tensor:
        return _in_precision(self.psi, z_prime)

    def score(self) -> Score:
        """The dot product of what the networks return."""
        return MappedSides(DotProduct(), rows=self._of_z, columns=self._of_z_prime)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """phi(z) . psi(z')."""
        return f"phi({context[-1]}) . psi({z_prime})"


class JointCritic(Coupling):
    """One network of both latents.

        log f(z, z') = NN(z, z')

    Every pair passes the network, so that time and memory of a block are those of the hidden layers.

    Args:
        dim: Width D of z.
        dim_prime: Width D' of z'; None means D.
        hidden: Units of each of two hidden layers.

    Raises:
        ValueError: A count below one.
    """

    def __init__(self, dim: int, dim_prime: int | None = None, *, hidden: int = 32) -> None:
        super().__init__()
        dim_prime = dim if dim_prime is None else dim_prime
        self.dims = _counts(dim, dim_prime, hidden=hidden)
        # The first layer of (z, z') is a sum of two, each formed once per row and not once per pair.
        self.first, self.first_prime = nn.Linear(dim, hidden), nn.Linear(dim_prime, hidden, bias=False)
        # No offset of the output: it cancels against Z.
        self.rest = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1, bias=False))

    def extra_repr(self) -> str:
        """The widths."""
        return shown(dim=self.dims[0], dim_prime=self.dims[1])

    def _check_widths(self, width: int, width_prime: int) -> None:
        _check_widths(self, self.dims, width, width_prime)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return self.rest(self.first(z) + self.first_prime(z_prime))[..., 0]

    def score(self) -> Score:
        """The same on blocks."""
        return BlockScore(self.on_pairs)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """NN(z, z')."""
        return f"NN({context[-1]}, {z_prime})"


def _network(dim: int, hidden: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, features))


def _in_precision(net: nn.Sequential, values: Tensor) -> Tensor:
    """A network in the precision of the values, which the kernel gives in double where single would not do."""
    if next(net.parameters()).dtype == values.dtype:
        return net(values)
    return functional_call(net, {name: p.to(values.dtype) for name, p in net.named_parameters()}, values)


def _counts(dim: int, dim_prime: int, **sizes: int) -> tuple[int, int]:
    for name, value in {"dim": dim, "dim_prime": dim_prime, **sizes}.items():
        check_count(name, value)
    return dim, dim_prime


def _check_widths(critic: Coupling, dims: tuple[int, int], width: int, width_prime: int) -> None:
    if (width, width_prime) != dims:
        raise ValueError(
            f"Expected z and z_prime of widths {dims} for this {type(critic).__name__}; got {width} and {width_prime}."
        )
