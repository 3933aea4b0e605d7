"""Time and memory of InfoNCE, forward and backward, against full-matrix cross-entropy and the libraries around.

    python benchmarks/pairwise.py --out runs/pairwise

One thread. Every cell is a process of its own that times cross-entropy and the contender in turn and prints the
ratio of their CPU times, the median of several pairs; another process, which runs the contender alone, measures
its peak memory: the largest resident size above that before the call. Cross-entropy needs three N x N matrices,
and where they do not fit its time is not measured. Libraries that are not installed are left out.
"""

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recparam.ops import DotProduct, SquaredDistance, pairwise_infonce

Loss = Callable[[Tensor, Tensor], Tensor]
TEMPERATURE = 0.1
LARGEST_DENSE = 32768
"""Rows up to which cross-entropy is measured, if its matrices fit."""


def cross_entropy(z: Tensor, bank: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(z @ bank.T, torch.arange(len(z)))


def recparam(how: str, *, distance: bool = False) -> Callable[[], Loss]:
    score = SquaredDistance(torch.tensor(1.0)) if distance else DotProduct()
    return lambda: lambda z, bank: -pairwise_infonce(score, z, bank, implementation=how).mean()  # type: ignore[arg-type]


def info_nce_pytorch() -> Loss:
    from info_nce import info_nce

    return lambda z, bank: info_nce(z, bank, temperature=TEMPERATURE)


def metric_learning() -> Loss:
    from pytorch_metric_learning.losses import NTXentLoss

    loss = NTXentLoss(temperature=TEMPERATURE)
    return lambda z, bank: loss(z, torch.arange(len(z)), ref_emb=bank, ref_labels=torch.arange(len(bank)))


def lightly() -> Loss:
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE)


def keops() -> Loss:
    from pykeops.torch import LazyTensor

    def loss(z: Tensor, bank: Tensor) -> Tensor:
        rows, columns = LazyTensor(z[:, None]), LazyTensor(bank[None])
        return ((rows | columns).logsumexp(1)[:, 0] - (z * bank).sum(1)).mean()

    return loss


CONTENDERS: dict[str, tuple[str, Callable[[], Loss]]] = {
    "recparam": ("recparam", recparam("auto")),
    "recparam, squared distance": ("recparam", recparam("auto", distance=True)),
    "recparam, blocks": ("recparam", recparam("blocked")),
    "info-nce-pytorch": ("info_nce", info_nce_pytorch),
    "pytorch-metric-learning": ("pytorch_metric_learning", metric_learning),
    "lightly": ("lightly", lightly),
    "pykeops": ("pykeops", keops),
}
"""Name, module that has to be there, and how to build the loss. Some of them normalise, which is linear in N."""


def data(rows: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, width, generator=generator) / width**0.25
    return z.requires_grad_(), (z + 0.3 * torch.randn(rows, width, generator=generator)).detach().requires_grad_()


def step(loss: Loss, z: Tensor, bank: Tensor) -> float:
    """CPU seconds of one forward and backward pass."""
    z.grad = bank.grad = None
    start = time.process_time()
    loss(z, bank).backward()
    return time.process_time() - start


def measure_time(contender: str, rows: int, width: int, repeats: int) -> dict[str, float | None]:
    """Median CPU time of the contender, and median of its ratios to the cross-entropy that ran before it."""
    z, bank = data(rows, width)
    loss = CONTENDERS[contender][1]()
    dense = 4 * rows * rows * 4 < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    step(loss, z, bank)
    reference: list[float] = []
    times: list[float] = []
    for _ in range(repeats):
        if dense:
            reference.append(step(cross_entropy, z, bank))
        times.append(step(loss, z, bank))
    ratio = statistics.median(t / r for t, r in zip(times, reference, strict=True)) if dense else None
    return {"seconds": statistics.median(times), "ratio": ratio}


def resident() -> int:
    """Resident size now, in KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * (resource.getpagesize() // 1024)


def measure_memory(contender: str, rows: int, width: int) -> dict[str, float]:
    """Peak resident size above that before the call, in MiB, after a small call that loads the code."""
    loss = CONTENDERS[contender][1]() if contender != "cross-entropy" else cross_entropy
    z, bank = data(256, width)
    step(loss, z, bank)
    z, bank = data(rows, width)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed while the data were made must not serve the call
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present size
    except OSError:
        pass  # then the peak since the start is read, which inputs may have set
    before = resident()
    seconds = step(loss, z, bank)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"peak_mib": (int(status["VmHWM"].split()[0]) - before) / 1024, "seconds": seconds}


def cell(kind: str, contender: str, rows: int, width: int, repeats: int) -> dict[str, float | None]:
    """Run one measurement in a process of its own; empty if it dies, as for want of memory."""
    command = [sys.executable, __file__, "--cell", kind, contender, str(rows), str(width), str(repeats)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}


def sensible(contender: str, rows: int, width: int) -> bool:
    """Leave out what would take hours, or says nothing."""
    if rows * width > 2**24:
        return False
    if contender == "recparam, blocks" and width > 16:  # which "auto" takes there, too
        return False
    return rows <= LARGEST_DENSE // 4 or contender.startswith("recparam")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 2048, 8192, 32768, 131072])
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 128, 512])
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--out", type=Path, help="folder for pairwise.json")
    parser.add_argument("--cell", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cell:
        kind, contender, rows, width, repeats = options.cell
        time_it = kind == "time"
        size = (contender, int(rows), int(width))
        print(json.dumps(measure_time(*size, int(repeats)) if time_it else measure_memory(*size)))
        return
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print("CPU time over that of full-matrix cross-entropy | CPU seconds | peak MiB")
    results: list[dict[str, object]] = []
    for contender in options.contenders:
        if importlib.util.find_spec(CONTENDERS[contender][0]) is None:
            print(f"{contender:28s} not installed")
            continue
        for width in options.widths:
            for rows in options.rows:
                if not sensible(contender, rows, width):
                    continue
                repeats = 9 if rows <= 2048 else 3 if rows <= 8192 else 1
                found = cell("memory", contender, rows, width, 1)
                if rows <= LARGEST_DENSE:
                    found |= cell("time", contender, rows, width, repeats)
                results.append({"contender": contender, "rows": rows, "width": width, **found})
                ratio, seconds, peak = (found.get(key) for key in ("ratio", "seconds", "peak_mib"))
                shown = [f"{value:9.3f}" if value is not None else "        -" for value in (ratio, seconds, peak)]
                print(f"{contender:28s} D = {width:4d}  N = {rows:6d}  {' | '.join(shown)}", flush=True)
                if options.out:
                    options.out.mkdir(parents=True, exist_ok=True)
                    (options.out / "pairwise.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
