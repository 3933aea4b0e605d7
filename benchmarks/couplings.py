"""Time of one InfoNCE step, forward and backward, of composed couplings against the Gaussian one.

    python benchmarks/couplings.py [--whole-step]

One thread. Contender and Gaussian run in turn, and the ratio is the median of their ratios. `--whole-step` times a
training step of the moving-balls experiment instead, whose encoder reads frames of 256 by 256 pixels.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import recparam as rp
from recparam.couplings import Coupling
from recparam.ops import pairwise_infonce

DIM = 6
THREE = [[0, 1], [2, 3], [4, 5]]
CONTENDERS: dict[str, Callable[[], Coupling]] = {
    "Groups(GaussianRBF)": lambda: rp.Groups(rp.GaussianRBF(1.0), THREE),
    "Groups(StepLength)": lambda: rp.Groups(rp.StepLength(1.0), THREE),
    "After(ConstantVelocity, GaussianRBF)": lambda: rp.After(rp.ConstantVelocity(), rp.GaussianRBF(1.0)),
    "After(ConstantVelocity, GaussianRBF) + Groups(StepLength)": lambda: (
        rp.After(rp.ConstantVelocity(), rp.GaussianRBF(1.0)) + rp.Groups(rp.StepLength(1.0), THREE)
    ),
    "After(NeuralTransition, GaussianRBF)": lambda: rp.After(rp.NeuralTransition(2, DIM), rp.GaussianRBF(1.0)),
    "Laplace": lambda: rp.Laplace(1.0),
    "GeneralisedNormal": lambda: rp.GeneralisedNormal(1.5, lengthscale=1.0),
    "StudentT": lambda: rp.StudentT(3.0, lengthscale=1.0),
    "VonMisesFisher": lambda: rp.VonMisesFisher(DIM),
    "LinearDynamics": lambda: rp.LinearDynamics(DIM, covariance=torch.eye(DIM)),
    "Switching of two LinearDynamics": lambda: rp.Switching(
        [rp.LinearDynamics(DIM, covariance=scale * torch.eye(DIM)) for scale in (0.5, 2.0)]
    ),
    "SeparableCritic": lambda: rp.SeparableCritic(DIM),
    "JointCritic": lambda: rp.JointCritic(DIM),
}


def kernel_step(coupling: Coupling, rows: int) -> Callable[[], Tensor]:
    """The loss of a batch of latents, as a function that forms it anew."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, coupling.order * DIM, generator=generator).requires_grad_()
    z_prime = (z.detach()[:, -DIM:] + 0.5 * torch.randn(rows, DIM, generator=generator)).requires_grad_()
    return lambda: -pairwise_infonce(coupling.score(), z, z_prime).mean()


def whole_step(coupling: Coupling, rows: int) -> Callable[[], Tensor]:
    """The loss of a batch of frames through the experiment's encoder."""
    torch.manual_seed(0)
    net = rp.CentreOfMassCNN(3, DIM // 2)
    frames = [torch.rand(rows, 3, 256, 256) for _ in range(2)]
    model = rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(coupling)).train()
    return lambda: -model.elbo(*frames).value


def seconds(loss: Callable[[], Tensor]) -> float:
    """CPU seconds of one forward and backward pass."""
    start = time.process_time()
    loss().backward()
    return time.process_time() - start


def ratio(contender: Callable[[], Tensor], reference: Callable[[], Tensor], repeats: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median of their ratios."""
    for loss in (contender, reference):
        seconds(loss)
    pairs = [(seconds(contender), seconds(reference)) for _ in range(repeats)]
    of_contender, of_reference = (statistics.median(side) for side in zip(*pairs, strict=True))
    return of_contender, of_reference, statistics.median(a / b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole-step", action="store_true", help="time a step of the moving-balls experiment")
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="folder for couplings.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make = whole_step if arguments.whole_step else kernel_step
    names = ["Groups(StepLength)"] if arguments.whole_step else list(CONTENDERS)
    sizes = (60,) if arguments.whole_step else (60, 128, 900)
    repeats = arguments.repeats or (7 if arguments.whole_step else 41)
    found: list[dict[str, object]] = []
    for name in names:
        for rows in sizes:
            mine, gaussian, times = ratio(make(CONTENDERS[name](), rows), make(rp.GaussianRBF(1.0), rows), repeats)
            found.append({"coupling": name, "rows": rows, "seconds": mine, "gaussian": gaussian, "ratio": times})
            print(f"{name:60} {rows:4} rows {1e3 * mine:9.2f} ms {1e3 * gaussian:9.2f} ms {times:6.2f}", flush=True)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "couplings.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
