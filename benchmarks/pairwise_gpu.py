"""The kernel in Triton on a GPU: its tests, then time and memory of forward + backward against other ways.

These are blocks in plain torch and `torch.nn.functional.cross_entropy(z @ bank.T, arange(N))`, which holds the matrix;
the rate is set beside that of a matrix product.

Operations are counted as 6 N^2 D (each score formed once, both gradients); the kernel itself does 8 N^2 D.

Run: python benchmarks/pairwise_gpu.py --sizes 32768 65536 --widths 64 128 512 --dtypes bfloat16 float32
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from recparam.ops import DotProduct, pairwise_infonce

ROOT = Path(__file__).parents[1]
MATRIX = "cross-entropy"
WAYS = ["triton", "blocked", MATRIX]
PRODUCT = 8192  # rows and columns of the matrices whose product sets the rate


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time on the GPU, the first call (which compiles) not counted."""
    work()
    times: list[float] = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times)


def product_rate(dtype: torch.dtype, repeats: int) -> float:
    """Operations per second of a large matrix product."""
    left, right = (torch.randn(PRODUCT, PRODUCT, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * PRODUCT**3 / seconds(lambda: left @ right, repeats)


def measure(dtype: torch.dtype, n: int, width: int, implementation: str, repeats: int) -> tuple[float, float]:
    """Seconds of forward + backward, and peak memory in MiB above what was held before."""
    torch.manual_seed(0)
    z, bank = (
        (torch.randn(n, width, device="cuda") * width**-0.25).to(dtype).requires_grad_() for _ in range(2)
    )  # scores of about one nat

    labels = torch.arange(n, device="cuda")

    def step() -> None:
        z.grad = bank.grad = None
        if implementation == MATRIX:
            torch.nn.functional.cross_entropy(z @ bank.T, labels).backward()
        else:
            pairwise_infonce(DotProduct(), z, bank, implementation=implementation).mean().backward()  # pyright: ignore

    step()
    z.grad = bank.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return seconds(step, repeats), peak


def main() -> None:
    """Run the tests, then print one line for each dtype, width and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32768, 65536], help="rows, and columns")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 512], help="features")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--implementations", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-tests", action="store_true", help="only the benchmark")
    options = parser.parse_args()
    if not torch.cuda.is_available() or find_spec("triton") is None:
        missing = "torch finds no CUDA device" if not torch.cuda.is_available() else "the package triton is missing"
        print(f"Nothing was measured: {missing}.")
        return
    if not options.skip_tests:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", "tests/test_triton.py"]
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    import triton  # pyright: ignore[reportMissingImports]

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}", flush=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    for name in options.dtypes:
        dtype = getattr(torch, name)
        rate = product_rate(dtype, options.repeats)
        print(f"{name}: matrix product of {PRODUCT} x {PRODUCT}: {rate / 1e12:.1f} T operations/s", flush=True)
        for width in options.widths:
            for n in options.sizes:
                for implementation in options.implementations:
                    try:
                        time, peak = measure(dtype, n, width, implementation, options.repeats)
                    except torch.OutOfMemoryError:
                        print(f"  D {width:4d}  N {n:6d}  {implementation:13s} out of memory", flush=True)
                        continue
                    reached = 6 * n * n * width / time
                    print(
                        f"  D {width:4d}  N {n:6d}  {implementation:13s} {1000 * time:9.2f} ms  "
                        f"{reached / 1e12:7.1f} T operations/s  {reached / rate:5.2f} of the product's  "
                        f"peak {peak:8.1f} MiB",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
