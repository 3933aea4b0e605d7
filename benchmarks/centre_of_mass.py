"""CPU time and memory of the fused centre-of-mass step against eager PyTorch, on one thread.

Run: python benchmarks/centre_of_mass.py --sizes 64 128 256 --batch 60 --repeats 5 --frames noise
A step is forward and backward in training mode, or with --evaluation the network in evaluation mode.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from recparam.networks import CentreOfMassCNN
from recparam.ops.centre_of_mass import conv_centre_of_mass, conv_centre_of_mass_reference, why_unavailable

PATHS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "eager": conv_centre_of_mass_reference,
    "fused": conv_centre_of_mass,
}


def problem(kind: str, batch: int, size: int) -> tuple[Tensor, list[Tensor]]:
    """Frames (batch, 3, size, size) and the parameters of 3 - 6 - 3 channels, seeded."""
    torch.manual_seed(0)
    if kind == "noise":
        frames = torch.rand(batch, 3, size, size)
    elif kind == "uint8":
        frames = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
    else:  # three discs of one colour each on black
        frames = torch.zeros(batch, 3, size, size)
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        for image in frames:
            for channel in image:
                cx, cy = (size * (0.1 + 0.8 * torch.rand(2))).tolist()
                channel[(x - cx) ** 2 + (y - cy) ** 2 < (size / 16) ** 2] = 1
    conv1, conv2 = torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(6, 3, 3)
    parameters = [conv1.weight.data, torch.zeros(6), torch.ones(6), torch.zeros(6)]
    parameters += [conv2.weight.data, torch.zeros(3), torch.ones(3), torch.zeros(3)]
    return frames, [p.detach().requires_grad_() for p in parameters]


def step_of(path: str, parameters: list[Tensor], weights: Tensor, evaluation: bool) -> Callable[[Tensor], None]:
    """What is timed: one step on frames."""
    if evaluation:
        net = CentreOfMassCNN(fused=None if path == "fused" else False).eval()

        def look(frames: Tensor) -> None:
            with torch.no_grad():
                net(frames)

        return look

    def train(frames: Tensor) -> None:
        (PATHS[path](frames, *parameters)[0] * weights[: len(frames)]).sum().backward()

    return train


def measure(
    path: str, kind: str, batch: int, size: int, repeats: int, evaluation: bool, out: multiprocessing.Queue
) -> None:
    """Put the median CPU-seconds of a step and the growth of peak memory in MB into `out`."""
    torch.set_num_threads(1)
    frames, parameters = problem(kind, batch, size)
    step = step_of(path, parameters, torch.randn(batch, 6), evaluation)
    step(problem(kind, 2, 16)[0])  # compile or load, and warm torch up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        step(frames)
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    out.put((statistics.median(seconds), peak / 1024))


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="frame width = height")
    parser.add_argument("--batch", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", choices=["noise", "uint8", "black"], default="noise")
    parser.add_argument("--evaluation", action="store_true", help="evaluation mode, no gradients")
    options = parser.parse_args()
    if why_unavailable():
        raise SystemExit(f"the fused path does not run here: {why_unavailable()}")
    context = multiprocessing.get_context("spawn")
    for size in options.sizes:
        found: dict[str, tuple[float, float]] = {}
        for path in PATHS:  # a process each, so that peak memory is its own
            queue = context.Queue()
            arguments = (path, options.frames, options.batch, size, options.repeats, options.evaluation, queue)
            process = context.Process(target=measure, args=arguments)
            process.start()
            found[path] = queue.get(timeout=600)
            process.join()
        (eager, eager_mb), (fused, fused_mb) = found["eager"], found["fused"]
        print(
            f"{options.batch} x {size} x {size} {options.frames}: eager {eager:.3f} s {eager_mb:.0f} MB, "
            f"fused {fused:.3f} s {fused_mb:.0f} MB, ratio {fused / eager:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
