"""How often `rp.compare` declares a winner of two models that are equal by symmetry, and how often its interval covers.

The two coordinates (or circles) of a world are exchangeable, and each of two models has its prior on one of them. So
neither is better, in expectation over worlds, and every winner is a false one. The last rows are models that differ.

    python benchmarks/comparing_alike.py --draws 200
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from scipy.signal import lfilter
from scipy.stats import beta
from torch import Tensor, nn

import recparam as rp
from recparam.comparison import Difference
from recparam.couplings import Coupling

COUPLINGS: dict[str, tuple[Callable[[], Coupling], int]] = {
    "RBF, 0.3": (lambda: rp.GaussianRBF(0.3), 1),
    "RBF, 1": (lambda: rp.GaussianRBF(1.0), 1),
    "bilinear, 0.5": (lambda: rp.Bilinear(1, theta=torch.tensor([[0.5]])), 1),
    "bilinear, 1": (lambda: rp.Bilinear(1, theta=torch.tensor([[1.0]])), 1),
    "bilinear, 1.5": (lambda: rp.Bilinear(1, theta=torch.tensor([[1.5]])), 1),
    "von Mises-Fisher, 4": (lambda: rp.VonMisesFisher(2, concentration=4.0), 2),
    "Laplace, 0.6": (lambda: rp.Laplace(0.6), 1),
    "Student-t, 1": (lambda: rp.StudentT(lengthscale=1.0), 1),
}


@dataclass(frozen=True)
class World:
    """Rows of a kind, and their bank.

    Args:
        rows: How many.
        bank: How many of a bank apart; None: the rows themselves.
        memory: Correlation of neighbours, where the rows are a series.
        freedom: Of a Student t distribution of the data; None: normal.
    """

    rows: int
    bank: int | None = None
    memory: float | None = None
    freedom: float | None = None

    def __str__(self) -> str:
        kind = "independent" if self.memory is None else f"AR(1), {self.memory}"
        kind += "" if self.freedom is None else f", t with {self.freedom:g}"
        return f"{kind} | {self.rows} | {'own' if self.bank is None else self.bank}"

    def draw(self, rows: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pairs (x, x'), each (rows, width)."""
        if self.memory is not None:
            noise = math.sqrt(1 - self.memory**2) * torch.randn(rows + 1001, width, generator=generator)
            series = torch.from_numpy(lfilter([1.0], [1.0, -self.memory], noise.double().numpy(), axis=0)[1000:].copy())
            return series[:-1].float(), series[1:].float()
        x, noise = (torch.randn(rows, width, generator=generator) for _ in range(2))
        x, x_prime = x, 0.8 * x + 0.6 * noise
        if self.freedom is not None:
            half = torch.full((rows, width), self.freedom / 2)
            scale = (torch._standard_gamma(half, generator=generator) / half).rsqrt()
            x, x_prime = scale * x, scale * x_prime
        return x, x_prime


WORLDS = (
    World(100),
    World(500),
    World(2000),
    World(500, bank=100),
    World(2000, bank=100),
    World(5000, bank=50),
    World(500, memory=0.5),
    World(500, memory=0.9),
    World(1000, bank=500, memory=0.9),
    World(500, memory=0.99),
    World(500, freedom=2.0),
)
DIFFERENT = (World(100), World(500), World(2000), World(500, bank=100), World(1000, memory=0.9))


class Circles(nn.Module):
    """Two points of the plane, each on its circle."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([nn.functional.normalize(part, dim=-1) for part in x.split(2, dim=-1)], -1)


def model(coupling: Coupling, dimensions: list[int]) -> rp.RPM:
    """A prior on some of the dimensions."""
    net = nn.Identity() if len(dimensions) == 1 else Circles()
    return rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(rp.OnDimensions(coupling, dimensions)))


def compared(models: dict[str, rp.RPM], world: World, width: int, *, draws: int, seed: int) -> Iterator[Difference]:
    """The difference of two models in each draw of a world."""
    first, second = models
    for number in range(draws):
        generator = torch.Generator().manual_seed(seed + number)
        data = world.draw(world.rows, width, generator)
        bank = None if world.bank is None else world.draw(world.bank, width, generator)
        yield rp.compare(models, data, bank=bank).difference(first, second)


def limits(count: int, of: int) -> str:
    """A share with its Clopper-Pearson interval of 95 %, in %."""
    if not of:
        return "-"
    low = 0.0 if count == 0 else float(beta.ppf(0.025, count, of - count + 1))
    high = 1.0 if count == of else float(beta.ppf(0.975, count + 1, of - count))
    return f"{100 * count / of:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def alike(name: str, world: World, *, draws: int, seed: int) -> str:
    """One row of the first table."""
    make, width = COUPLINGS[name]
    models = {f"{k}": model(make(), list(range(k * width, (k + 1) * width))) for k in range(2)}
    found: Counter[str] = Counter()
    for difference in compared(models, world, 2 * width, draws=draws, seed=seed):
        low, high = difference.paired.interval[1:]
        found["winner"] += difference.better is not None
        found["bounds"] += difference.basis == "bounds"
        if difference.heavy is not None:
            found["heavy"] += 1
        elif low is None or high is None:
            found["few"] += 1
        else:
            found["covered"] += low <= 0 <= high
    kept = draws - found["heavy"] - found["few"]
    cells = [limits(found["winner"], draws), limits(found["bounds"], draws), limits(found["covered"], kept)]
    return f"| {name} | {world} | {' | '.join(cells)} | {found['heavy']} | {found['few']} |"


def different(world: World, *, draws: int, seed: int) -> str:
    """One row of the second table: lengthscales of 0.8, near the best, and of 0.95."""
    models = {"better": model(rp.GaussianRBF(0.8), [0]), "worse": model(rp.GaussianRBF(0.95), [0])}
    differences = list(compared(models, world, 1, draws=draws, seed=seed))
    cells = [sum(d.better == name for d in differences) for name in models]
    by_bounds, mean = sum(d.basis == "bounds" for d in differences), sum(d.mean for d in differences) / draws
    return f"| {world} | {mean:.3f} | {limits(cells[0], draws)} | {limits(by_bounds, draws)} | {cells[1]} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="couplings whose names begin so, and no second table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", rp.CeilingWarning)
    print("| coupling | world | rows | bank | winners, % | by the bounds, % | covered, % | heavy | few blocks |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in COUPLINGS:
        if name.startswith(options.only):
            for world in WORLDS:
                print(alike(name, world, draws=options.draws, seed=options.seed), flush=True)
    print("\n| world | rows | bank | difference, nats | the better wins, % | by the bounds, % | the worse wins |")
    print("|---|---|---|---|---|---|---|")
    for world in DIFFERENT if not options.only else ():
        print(different(world, draws=options.draws, seed=options.seed), flush=True)


if __name__ == "__main__":
    main()
