"""Resident memory of a fit, a score and a transform of a recording that is larger than memory may be.

    python benchmarks/memory.py FILE.npy [--gigabytes 10] [--steps 200]

FILE is written if it is not there: a walk in the plane seen through 1000 channels with noise, as float32, no holes. It
is mapped, not read. Memory is the largest resident size of the process so far, Python, torch and mapped pages included.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

import recparam as rp

CHANNELS, CHUNK = 1000, 25_000


def write(path: Path, rows: int) -> None:
    """Written chunk by chunk through an ordinary file, so that no page of it is mapped yet."""
    rng = np.random.default_rng(0)
    mix, place = rng.normal(size=(2, CHANNELS)).astype(np.float32), np.zeros(2)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (rows, CHANNELS)}
        )
        for start in range(0, rows, CHUNK):
            steps = 0.05 * rng.normal(size=(min(CHUNK, rows - start), 2))
            walk = place + np.cumsum(steps, axis=0)
            place = walk[-1]
            seen = np.tanh(np.sin(walk).astype(np.float32) @ mix)
            seen += 0.1 * rng.standard_normal(seen.shape, dtype=np.float32)
            seen.tofile(file)
    partial.rename(path)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux gives KiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    rows = int(options.gigabytes * 1e9 / (4 * CHANNELS))
    if not options.file.exists():
        write(options.file, rows)
    X = np.load(options.file, mmap_mode="r")
    print(f"{X.shape[0]} rows x {X.shape[1]} channels, {X.nbytes / 1e9:.1f} GB; before: {peak_megabytes():.0f} MB")
    est = rp.RPMEstimator(max_steps=options.steps, restarts=1, random_state=0)
    for name, work in {
        "fit": lambda: est.fit(X),
        "score": lambda: est.score(X[-100_000:]),
        "transform": lambda: est.transform(X),
    }.items():
        start = time.perf_counter()
        work()
        print(f"{name:9}  at most {peak_megabytes():.0f} MB so far, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
