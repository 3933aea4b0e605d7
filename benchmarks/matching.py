"""Time and memory of matching every row of x with every row of x', against the plain way in torch.

    python benchmarks/matching.py --out runs/matching

One thread. Each way is a process of its own, run once: CPU seconds, and the largest resident size above that before
the call. The plain way forms blocks of rows against all columns and does everything on a block at once, into results
that are allocated beforehand; the library goes through all pairs once for Z(z) and once for each question. Both must
agree.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import recparam as rp
from recparam.model.calibration import retrieval

LENGTHSCALE = 1.0
BEST = 10
HEIGHT = 32
"""Rows of a block of the plain way."""


def data(rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Partners at a distance that leaves some of them in doubt."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator)
    return x, x + 0.2 * torch.randn(rows, width, generator=generator)


def library(x: Tensor, x_prime: Tensor) -> dict[str, object]:
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=LENGTHSCALE))
    model = rp.RPM(rp.Deterministic(torch.nn.Identity()), prior, marginal=rp.DatasetMarginal(x, x_prime))
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = call()
        seconds[name] = time.process_time() - start
        return result

    matching = timed("Z(z)", lambda: model.match(x, x_prime))
    best = timed("top", lambda: matching.top_k(BEST))
    places = timed("places", matching.places)
    entropy = timed("entropy", matching.entropy)
    found = retrieval(places)
    return {
        "seconds": seconds,
        "recall": found.recall,
        "chance": found.chance,
        "median rank": found.median_rank,
        "entropy": float(entropy.mean()),
        "best": float(best.log_probs[:, 0].mean()),
    }


def plain(x: Tensor, x_prime: Tensor) -> dict[str, object]:
    start = time.process_time()
    rank, entropy, best = torch.empty(len(x)).long(), torch.empty(len(x)), torch.empty(len(x), BEST)
    for first in range(0, len(x), HEIGHT):
        part, rows = x[first : first + HEIGHT], slice(first, first + HEIGHT)
        log_p = (-0.5 * torch.cdist(part, x_prime).square() / LENGTHSCALE**2).log_softmax(1)
        best[rows] = log_p.topk(BEST, 1).values
        own = log_p.gather(1, torch.arange(first, first + len(part))[:, None])
        rank[rows] = (log_p > own).sum(1)
        entropy[rows] = -(log_p.exp() * log_p).sum(1)
    return {
        "seconds": {"all": time.process_time() - start},
        "recall": [float((rank < k).double().mean()) for k in (1, 5, 10)],
        "median rank": float(rank.double().quantile(0.5)) + 1,
        "entropy": float(entropy.mean()),
        "best": float(best[:, 0].mean()),
    }


WAYS = {"recparam": library, "plain torch": plain}


def measure(way: str, rows: int, width: int) -> dict[str, object]:
    x, x_prime = data(rows, width)
    WAYS[way](x[:200], x_prime[:200])  # what is set up once
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    result = WAYS[way](x, x_prime)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"way": way, **result, "wall": time.perf_counter() - start, "peak MiB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/matching"))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.way:
        print(json.dumps(measure(options.way, options.rows, options.width)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, object]] = []
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, "--rows", str(options.rows), "--width", str(options.width)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results.append(json.loads(done.stdout))
        print(json.dumps(results[-1]), flush=True)
        settings = {"rows": options.rows, "width": options.width, "machine": platform.processor(),
                    "torch": torch.__version__}  # fmt: skip
        (options.out / "results.json").write_text(json.dumps({"settings": settings, "results": results}, indent=2))


if __name__ == "__main__":
    main()
