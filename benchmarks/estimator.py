"""Linear decoding, on the held-out rest, of latents that the estimator found in data with known causes.

    python benchmarks/estimator.py CASES [--only rat walk pendulum speed] [--seeds 0 1 2] [--steps 1500]

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
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

import recparam as rp
from recparam.estimator import FitWarning

STEPS, BATCH = 500, 512  # of the comparison of speed


def r2(z: np.ndarray, truth: np.ndarray, rows: int) -> str:
    predicted = LinearRegression().fit(z[:rows], truth[:rows]).predict(z[rows:])
    rest = truth[rows:]
    each = 1 - ((rest - predicted) ** 2).sum(0) / ((rest - rest.mean(0)) ** 2).sum(0)
    return " ".join(f"{value:.3f}" for value in each)


def report(name: str, data: np.ndarray, truth: np.ndarray, rows: int, seeds: list[int], **settings: object) -> None:
    print(f"\n{name}: {data.shape}, fitted on {rows}, {settings}")
    flat = data.reshape(len(data), -1).astype(np.float32)
    print(f"  PCA-{truth.shape[1]}      R2 {r2(PCA(2, random_state=0).fit(flat[:rows]).transform(flat), truth, rows)}")
    for seed in seeds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            nothing = {"max_steps": 1, "restarts": 1, "learning_rate": 1e-9}
            untrained = rp.RPMEstimator(random_state=seed, **settings | nothing).fit(data[:rows])
            wall, cpu = time.perf_counter(), time.process_time()
            est = rp.RPMEstimator(random_state=seed, **settings).fit(data[:rows])
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"  seed {seed}  untrained R2 {r2(untrained.transform(data), truth, rows)}  "
            f"fitted R2 {r2(est.transform(data), truth, rows)}  score {est.score(data[rows:]):.3f} nats  "
            f"{est.history_[-1]['step']} steps  {cpu:.0f} CPU s  {wall:.0f} s",
            flush=True,
        )


def bare_loop(x: Tensor, x_prime: Tensor) -> nn.Module:
    """InfoNCE with a Gaussian coupling in plain torch, without anything that the estimator adds."""
    torch.manual_seed(0)
    net, log_scale = rp.MLP(x.shape[1], 2), torch.zeros((), requires_grad=True)
    with torch.no_grad():
        log_scale.copy_(torch.pdist(net(x[:BATCH])).median().log())
    optimiser = torch.optim.Adam([*net.parameters(), log_scale], lr=3e-3)
    generator = np.random.default_rng(0)
    for _ in range(STEPS):
        rows = torch.from_numpy(generator.integers(0, len(x), BATCH))
        z, z_prime = (net(torch.cat([x[rows], x_prime[rows]])) / log_scale.exp()).chunk(2)
        scores = z @ z_prime.T - 0.5 * (z.square().sum(1)[:, None] + z_prime.square().sum(1))
        loss = (scores.logsumexp(1) - scores.diagonal()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def speed(data: np.ndarray, truth: np.ndarray, rows: int, repeats: int) -> None:
    print(f"\nspeed: walk, {STEPS} steps of batch {BATCH}, one thread")
    x = torch.from_numpy(data[:rows])
    for _ in range(repeats):
        start = time.process_time()
        net = bare_loop(x[:-1], x[1:])
        bare = time.process_time() - start
        with torch.no_grad():
            found = net(torch.from_numpy(data)).numpy()
        start = time.process_time()
        est = rp.RPMEstimator(max_steps=STEPS, batch_size=BATCH, restarts=1, random_state=0).fit(data[:rows])
        own = time.process_time() - start
        print(
            f"  bare loop {bare:.2f} CPU s (R2 {r2(found, truth, rows)})  estimator {own:.2f} CPU s "
            f"(R2 {r2(est.transform(data), truth, rows)})  ratio {own / bare:.2f}",
            flush=True,
        )


def frames(path: Path) -> np.ndarray:
    import av

    with av.open(str(path)) as video:
        return np.stack([frame.to_ndarray(format="gray") for frame in video.decode(video=0)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--only", nargs="+", default=["rat", "walk", "pendulum", "speed"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="of a fit; the estimator's own number without it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = {} if options.steps is None else {"max_steps": options.steps}
    if "rat" in options.only:
        file = np.load(options.cases / "rat_place_cells.npz")
        for lag in (1, (1, 2, 3)):
            report("rat", np.sqrt(file["counts"]), file["position_m"], 2235, options.seeds, lag=lag, **steps)
        report("rat", np.sqrt(file["counts"]), file["position_m"], 2235, options.seeds, dropout=0.3, **steps)
    if {"walk", "speed"} & set(options.only):
        file = np.load(options.cases / "walk.npz")
        data, truth = file["x"].astype(np.float32), file["z"]
        if "walk" in options.only:
            report("walk", data, truth, 8000, options.seeds, **steps)
        if "speed" in options.only:
            speed(data, truth, 8000, 2)
    if "pendulum" in options.only:
        angle = np.load(options.cases / "pendulum_truth.npz")["angle_rad"]
        truth = np.stack([np.cos(angle), np.sin(angle)], 1)
        report("pendulum", frames(options.cases / "pendulum.mp4"), truth, 900, options.seeds, **steps)


if __name__ == "__main__":
    main()
