"""The fused centre-of-mass step against eager PyTorch, on one thread: CPU time, memory, errors, training curves.

Run: python benchmarks/centre_of_mass.py --sizes 64 128 256 --frames noise black clutter
A step is forward and backward in training mode, or with --evaluation the network in evaluation mode. Errors are
relative, in the norm, to eager PyTorch in float64 on the first frames (--exact), of the places and of the worst
gradient. --curves trains an epoch on either path and in float64 in place of that.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import recparam as rp
from recparam.experiments.balls.models import PaperPixels, coupling_of
from recparam.experiments.balls.videos import moving_balls
from recparam.networks import CentreOfMassCNN
from recparam.networks.fused.step import conv_centre_of_mass, conv_centre_of_mass_reference, why_unavailable

PATHS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "eager": conv_centre_of_mass_reference,
    "fused": conv_centre_of_mass,
}


def video(kind: str, batch: int, size: int) -> Tensor:
    """uint8 frames (batch, 3, size, size), seeded."""
    if kind == "noise":
        generator = torch.Generator().manual_seed(0)
        return torch.randint(256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    shown = moving_balls(batch, size=size, diameter=max(2.0, size / 8), background=kind, seed=0)
    return torch.as_tensor(shown.frames).permute(0, 3, 1, 2).contiguous()


def parameters_of(net: CentreOfMassCNN) -> list[Tensor]:
    """In the order of `conv_centre_of_mass`."""
    layers = (net.conv1, net.norm1, net.conv2, net.norm2)
    return [getattr(layer, name) for layer in layers for name in ("weight", "bias")]


def network(path: str) -> CentreOfMassCNN:
    """The same for either path."""
    torch.manual_seed(0)
    return CentreOfMassCNN(fused=path == "fused")


def step_of(path: str, batch: int, evaluation: bool) -> Callable[[Tensor], None]:
    """What is timed: one step on frames."""
    net = network(path).train(not evaluation)
    weights = torch.randn(batch, 6)

    def look(frames: Tensor) -> None:
        with torch.no_grad():
            net(frames)

    def train(frames: Tensor) -> None:
        (PATHS[path](frames, *parameters_of(net))[0] * weights[: len(frames)]).sum().backward()

    return look if evaluation else train


def resident(name: str) -> float:
    """Memory of this process in MB, now (VmRSS) or at most so far (VmHWM); the maximum of getrusage is its parent's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) / 1024


def measure(path: str, pixels: np.ndarray, repeats: int, evaluation: bool, out: multiprocessing.Queue) -> None:
    """Put the median CPU-seconds of a step and the growth of peak memory in MB into `out`."""
    torch.set_num_threads(1)
    frames = torch.from_numpy(pixels)
    step = step_of(path, len(frames), evaluation)
    step(frames[:2, :, :16, :16].contiguous())  # compile or load, and warm torch up
    before = resident("VmRSS")
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        step(frames)
        seconds.append(time.process_time() - start)
    out.put((statistics.median(seconds), resident("VmHWM") - before))


def errors(frames: Tensor) -> str:
    """Say how far both paths are from float64."""
    upstream = torch.randn(len(frames), 6, generator=torch.Generator().manual_seed(1))
    found: dict[str, list[Tensor]] = {}
    for name, dtype in (("exact", torch.float64), ("eager", torch.float32), ("fused", torch.float32)):
        net = network("eager").to(dtype)
        places = PATHS["fused" if name == "fused" else "eager"](frames, *parameters_of(net))[0]
        (places * upstream.to(dtype)).sum().backward()
        # The convolutions' biases have no effect: their gradients are zero in one path and rounding in the other.
        grads = [p.grad for k, p in enumerate(parameters_of(net)) if p.grad is not None and k not in (1, 5)]
        found[name] = [each.detach().double() for each in (places, *grads)]
    parts: list[str] = []
    for name in ("eager", "fused"):
        each = [float((a - b).norm() / b.norm()) for a, b in zip(found[name], found["exact"], strict=True)]
        parts.append(f"{name} places {each[0]:.0e}, gradients {max(each[1:]):.0e}")
    return "; ".join(parts)


def in_a_process(target: Callable[..., None], *arguments: object) -> tuple[float, float]:
    """Memory is a process's own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=target, args=(*arguments, queue))
    process.start()
    found = queue.get(timeout=600)
    process.join()
    return found


def curves(kind: str, size: int) -> str:
    """Train an epoch of a video of 900 frames as the paper does, and say how far the paths' bounds are from float64."""
    frames, order = video(kind, 900, size), torch.randperm(899, generator=torch.Generator().manual_seed(2))
    bounds: dict[str, list[float]] = {}
    for path in ("exact", *PATHS):
        encoder = PaperPixels(network(path), scale=256 / size)
        model = rp.RPM(rp.Deterministic(encoder), rp.InfoNCEPrior(coupling_of("gaussian")))
        model = model.double() if path == "exact" else model
        optimiser = torch.optim.SGD(model.parameters(), lr=0.005)
        bounds[path] = []
        for rows in order.split(30):
            optimiser.zero_grad()
            bound = model.elbo(frames[rows], frames[rows + 1])
            (-bound.value).backward()
            optimiser.step()
            bounds[path].append(float(bound))
    exact = bounds["exact"]
    apart = {path: max(abs(a - b) for a, b in zip(bounds[path], exact, strict=True)) for path in PATHS}
    away = ", ".join(f"{path} {value:.0e}" for path, value in apart.items())
    return f"{kind}, {len(exact)} steps: bound {exact[0]:.2f} to {exact[-1]:.3f} nats; away from float64 at most {away}"


def main() -> None:
    """Print one line for each size and kind of frames."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="frame width = height")
    parser.add_argument("--batch", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", nargs="+", choices=["noise", "black", "clutter"], default=["noise"])
    parser.add_argument("--exact", type=int, default=6, help="frames on which errors are taken")
    parser.add_argument("--evaluation", action="store_true", help="evaluation mode, no gradients")
    parser.add_argument("--curves", action="store_true", help="an epoch of training with either path")
    options = parser.parse_args()
    if why_unavailable():
        raise SystemExit(f"the fused path does not run here: {why_unavailable()}")
    for size in options.sizes:
        for kind in options.frames:
            if options.curves:
                print(f"{size} x {size} {curves(kind, size)}", flush=True)
                continue
            # Made here: what a process once needed to make them would hide what the step needs.
            facts = (video(kind, options.batch, size).numpy(), options.repeats, options.evaluation)
            (eager, eager_mb), (fused, fused_mb) = (in_a_process(measure, path, *facts) for path in PATHS)
            line = f"{options.batch} x {size} x {size} {kind}: eager {eager:.3f} s {eager_mb:.0f} MB, "
            line += f"fused {fused:.3f} s {fused_mb:.0f} MB, ratio {fused / eager:.3f}"
            print(line if options.evaluation else f"{line}; {errors(video(kind, options.exact, size))}", flush=True)


if __name__ == "__main__":
    main()
