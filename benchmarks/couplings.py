"""Time of one InfoNCE step, forward and backward, of composed couplings against the Gaussian one.

    python benchmarks/couplings.py [--whole-step 64 128 256 | --windows 3 5 9]

One thread. Contender and Gaussian run in turn, and the ratio is the median of their ratios. `--whole-step` times a
training step of the moving-balls experiment instead, 30 pairs of frames of these widths: of the joint bound, and of
independent groups as the experiment maximises it. `--windows` times the ELBO of windows of these many latents, whose
steps are scored together, against the sum of those of their pairs, one by one.
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


def whole_step(coupling: Coupling, size: int, *, by_group: bool = False) -> Callable[[], Tensor]:
    """The loss of a batch of frames through the experiment's encoder."""
    torch.manual_seed(0)
    net = rp.CentreOfMassCNN(3, DIM // 2)
    frames = torch.randint(256, (60, 3, size, size), dtype=torch.uint8)
    prior = rp.InfoNCEPrior(coupling)
    if by_group:
        return lambda: -rp.elbo_of_groups(prior, *net(frames).chunk(2)).value
    model = rp.RPM(rp.Deterministic(net), prior).train()
    return lambda: -model.elbo(*frames.chunk(2)).value


def windows(rows: int, length: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The loss of windows of latents at once, and pair by pair: the same number."""
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(rows, DIM, generator=generator).requires_grad_() for _ in range(length)]
    model = rp.RPM(rp.Deterministic(torch.nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(1.0)))

    def one_by_one() -> Tensor:
        return -torch.stack([model.elbo(*latents[t : t + 2]).value for t in range(length - 1)]).sum()

    return lambda: -model.elbo(*latents).value, one_by_one


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
    parser.add_argument("--whole-step", type=int, nargs="+", metavar="WIDTH", help="time steps of the moving balls")
    parser.add_argument("--windows", type=int, nargs="+", metavar="LATENTS", help="time windows of so many latents")
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="folder for couplings.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    repeats = arguments.repeats or (21 if arguments.whole_step else 41)
    found: list[dict[str, object]] = []

    def report(name: str, where: str, contender: Callable[[], Tensor], reference: Callable[[], Tensor]) -> None:
        mine, of_reference, times = ratio(contender, reference, repeats)
        found.append({"coupling": name, "of": where, "seconds": mine, "reference": of_reference, "ratio": times})
        print(f"{name:60} {where:>9} {1e3 * mine:9.2f} ms {1e3 * of_reference:9.2f} ms {times:6.2f}", flush=True)

    if arguments.whole_step:
        for size in arguments.whole_step:
            for name, by_group in (("Groups(StepLength)", False), ("Groups(StepLength), elbo_of_groups", True)):
                contender = whole_step(CONTENDERS["Groups(StepLength)"](), size, by_group=by_group)
                report(name, f"{size} px", contender, whole_step(rp.GaussianRBF(1.0), size))
    elif arguments.windows:
        for length in arguments.windows:
            for rows in (30, 128, 512):
                report(f"GaussianRBF, windows of {length}", f"{rows} rows", *windows(rows, length))
    else:
        for name, make in CONTENDERS.items():
            for rows in (60, 128, 900):
                report(name, f"{rows} rows", kernel_step(make(), rows), kernel_step(rp.GaussianRBF(1.0), rows))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "couplings.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
