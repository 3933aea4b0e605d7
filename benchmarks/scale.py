"""Memory and traffic of InfoNCE over several processes against the formulas of docs/scale.md.

    python benchmarks/scale.py --rows 4096 --width 1024 --processes 2 3

Bytes are counted by the kernel of the operating system on the loopback device that gloo is told to use, so nothing
else should talk over it meanwhile. Memory is the largest resident size during forward and backward above that
before, on the process where it is largest.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from recparam.ops import DotProduct, pairwise_infonce
from recparam.ops.collectives import gather_rows

_BLOCK = 1 << 23  # scores that the plain torch implementation works on at once, with many features


def value(z: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    rank = dist.get_rank()
    positives = torch.arange(rank * len(bank), rank * len(bank) + len(z))
    return pairwise_infonce(DotProduct(), z, gather_rows(bank), positives=positives).mean()


def formula(processes: int, rows: int, width: int) -> tuple[int, float]:
    """Sent by a process, and held by it at most, in units of its own bank; see docs/scale.md."""
    columns = rows * processes
    height = min(rows, max(16, _BLOCK // columns))
    blocks = (height * columns + height * width) / (rows * width)  # scores, and rows times their weights
    return 2 * (processes - 1), 2 * processes + 2 + blocks


def loopback() -> int:
    """Bytes sent over the loopback device since the machine started."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measure(rank: int, processes: int, rows: int, width: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.manual_seed(rank)
    warm = torch.randn(64, width, requires_grad=True)
    value(warm, warm.detach().clone().requires_grad_()).backward()
    z, bank = (torch.randn(rows, width).div_(width**0.5).requires_grad_() for _ in range(2))
    dist.barrier()
    time.sleep(0.3)
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident size starts again
    before, sent, start = resident("VmRSS"), loopback(), time.perf_counter()
    dist.barrier()
    value(z, bank).backward()
    seconds = time.perf_counter() - start
    dist.barrier()
    result = {"held": resident("VmHWM") - before, "sent": loopback() - sent, "seconds": seconds}
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096, help="rows of each process")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 3])
    options = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)  # freed tensors leave the process at once
    unit = options.rows * options.width * 4
    print(f"unit: a process's bank, {unit / 1e6:.1f} MB; torch {torch.__version__}, gloo, float32, one thread each")
    print("| processes | sent, formula | sent, counted | held, formula | held, measured | seconds |")
    print("|---|---|---|---|---|---|")
    for processes in options.processes:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(measure, (processes, options.rows, options.width, folder), nprocs=processes)
            results = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)]
        sent, held = formula(processes, options.rows, options.width)
        counted = max(result["sent"] for result in results) / processes / unit
        measured = max(result["held"] for result in results) / unit
        seconds = max(result["seconds"] for result in results)
        print(f"| {processes} | {sent} | {counted:.2f} | {held:.2f} | {measured:.2f} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
