"""Linear decoding, on the held-out rest, of latents that the estimator found in data with known causes.

    python benchmarks/estimator.py CASES [--only rat walk pendulum] [--seeds 0 1 2]

CASES holds rat_place_cells.npz (counts, position_m), walk.npz (x, z) and pendulum.mp4 with pendulum_truth.npz
(angle_rad). Everything is fitted on the first rows in time and scored on the last: R2 of each variable from the latents
by least squares. Beside the estimator stand the same network untrained, and as many principal components.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA

import recparam as rp
from recparam.data.readers import read
from recparam.estimator import FitWarning
from recparam.evaluation import LinearDecoder, r2


def r2_text(z: np.ndarray, truth: np.ndarray, rows: int) -> str:
    predicted = LinearDecoder().fit(z[:rows], truth[:rows]).predict(z[rows:])
    return " ".join(f"{r2(one, true):.3f}" for one, true in zip(predicted.T, truth[rows:].T, strict=True))


def report(name: str, data: np.ndarray, truth: np.ndarray, rows: int, seeds: list[int], **settings: object) -> None:
    print(f"\n{name}: {data.shape}, fitted on {rows}, {settings}")
    flat = data.reshape(len(data), -1).astype(np.float32)
    pca = PCA(2, random_state=0).fit(flat[:rows])
    print(f"  PCA-2      R2 {r2_text(pca.transform(flat), truth, rows)}")
    for seed in seeds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            nothing = {"max_steps": 1, "restarts": 1, "learning_rate": 1e-9}
            untrained = rp.RPMEstimator(random_state=seed, **settings | nothing).fit(data[:rows])
            wall, cpu = time.perf_counter(), time.process_time()
            est = rp.RPMEstimator(random_state=seed, **settings).fit(data[:rows])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"  seed {seed}  untrained R2 {r2_text(untrained.transform(data), truth, rows)}  "
            f"fitted R2 {r2_text(est.transform(data), truth, rows)}  score {est.score(data[rows:]):.3f} nats  "
            f"{est.history_[-1]['step']} steps  {cpu:.0f} CPU s  {wall:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--only", nargs="+", default=["rat", "walk", "pendulum"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases, lag = options.cases, (1, 2, 3)
    if "rat" in options.only:
        file = np.load(cases / "rat_place_cells.npz")
        report("rat", np.sqrt(file["counts"]), file["position_m"], 2235, options.seeds, lag=lag)
    if "walk" in options.only:
        file = np.load(cases / "walk.npz")
        report("walk", file["x"].astype(np.float32), file["z"], 8000, options.seeds, lag=lag)
    if "pendulum" in options.only:
        angle = np.load(cases / "pendulum_truth.npz")["angle_rad"]
        frames = read(cases / "pendulum.mp4")[:]
        report("pendulum", frames, np.stack([np.cos(angle), np.sin(angle)], 1), 900, options.seeds)


if __name__ == "__main__":
    main()
