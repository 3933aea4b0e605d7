"""The estimator by its defaults beside others, on recordings and videos with a known truth, in one run.

    python benchmarks/recordings.py CASES [--only achilles head rat walk arena pendulum mouse] [--seeds 0 1 2 3 4]
    python benchmarks/recordings.py CASES --only arena_1 few_cells ring chaos disc cart

CASES holds the public cases. Everything is fitted on the first three quarters in time (walk: four fifths; mouse: three
of four blocks of 10 s) and scored on the rest, without labels: R2 by neighbours and by least squares, averaged over the
variables, or the median error of the angle in degrees. `arena` and the cases of the second line are simulated
(`worlds.py`); those of the second line were not used to choose defaults.

Beside it: CEBRA-Time (`pip install cebra`; offset10-model, 2,000 iterations, by cosine and by Euclidean distance;
vectors alone), as many principal components of smoothed rows (most over four), Gaussian process factor analysis (`pip
install elephant`; vectors alone), the estimator's network untrained, and a supervised network. Ways that are not
installed are left out. CPU time is that of the whole fit, on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from worlds import cart_video, disc_video, head_cells, lorenz, place_cells  # of this folder

import recparam as rp
from recparam.data.readers import read
from recparam.estimator import FitWarning
from recparam.evaluation import mean_interval


@dataclass(frozen=True)
class Case:
    """Rows, the session of each, the truth and which rows are fitted.

    Args:
        x: Rows, in order of time.
        sessions: The session of each.
        truth: (N, K); of an angle its cosine and sine.
        fitted: Which rows are fitted.
        dim: Latents.
        smooth: Rows of the smoothing of principal components.
        angle: Whether the error is that of an angle.
    """

    x: np.ndarray
    sessions: np.ndarray
    truth: np.ndarray
    fitted: np.ndarray
    dim: int = 2
    smooth: float = 1.0
    angle: bool = False


def first(rows: int, share: float = 0.75) -> np.ndarray:
    return np.arange(rows) < int(rows * share)


def simulated(x: np.ndarray, truth: np.ndarray, **settings: Any) -> Case:
    return Case(x, np.zeros(len(x), int), truth, first(len(x)), smooth=4, **settings)


def achilles(cases: Path) -> Case:
    file = np.load(cases / "achilles_linear_track.npz")
    running = file["running"].astype(bool)
    x, times = np.sqrt(file["counts"][running].astype(np.float32)), file["time_s"][running]
    x = x[:, x[first(len(x))].std(0) > 0]
    sessions = np.r_[0, np.cumsum(np.diff(times) > 0.075)]
    return Case(x, sessions, file["position_m"][running].reshape(-1, 1), first(len(x)), dim=3, smooth=4)


def head(cases: Path) -> Case:
    file = np.load(cases / "hd_ring_mouse.npz")
    x, angle = np.sqrt(file["wake_counts"].astype(np.float32)), file["wake_angle_rad"]
    truth = np.column_stack([np.cos(angle), np.sin(angle)])
    return Case(x, file["wake_segment"], truth, first(len(x)), dim=3, smooth=4, angle=True)


def rat(cases: Path) -> Case:
    file = np.load(cases / "rat_place_cells.npz")
    x = np.sqrt(file["counts"].astype(np.float32))
    return Case(x, np.zeros(len(x), int), file["position_m"], first(len(x)))


def walk(cases: Path) -> Case:
    file = np.load(cases / "walk.npz")
    return Case(file["x"].astype(np.float32), np.zeros(len(file["x"]), int), file["z"], first(len(file["x"]), 0.8))


def arena(cases: Path) -> Case:
    return simulated(*place_cells())


def arena_1(cases: Path) -> Case:
    return simulated(*place_cells(1))


def few_cells(cases: Path) -> Case:
    return simulated(*place_cells(2, cells=40, peak=0.5, width=0.2))


def ring(cases: Path) -> Case:
    return simulated(*head_cells(), dim=3, angle=True)


def chaos(cases: Path) -> Case:
    return simulated(*lorenz(), dim=3)


def disc(cases: Path) -> Case:
    return simulated(*disc_video())


def cart(cases: Path) -> Case:
    return simulated(*cart_video(), dim=4)


def pendulum(cases: Path) -> Case:
    x, angle = read(cases / "pendulum.mp4")[:], np.load(cases / "pendulum_truth.npz")["angle_rad"]
    return Case(x, np.zeros(len(x), int), np.column_stack([np.cos(angle), np.sin(angle)]), first(len(x)))


def mouse(cases: Path) -> Case:
    x, truth = read(cases / "mouse_arena.mp4")[:][::5], np.load(cases / "mouse_arena_truth.npz")["xy_px"][::5]
    blocks = np.arange(len(x)) // 60
    return Case(x, blocks, truth, blocks % 4 != 3)


CASES: dict[str, Callable[[Path], Case]] = {
    f.__name__: f
    for f in (achilles, head, rat, walk, arena, pendulum, mouse, arena_1, few_cells, ring, chaos, disc, cart)
}


def read_outs(case: Case, z: np.ndarray) -> tuple[float, float]:
    """By neighbours and by least squares: mean R2, or the median error in degrees."""
    found = []
    for model in (KNeighborsRegressor(50 if case.truth.shape[1] == 1 or case.angle else 20), LinearRegression()):
        told = model.fit(z[case.fitted], case.truth[case.fitted]).predict(z[~case.fitted])
        true = case.truth[~case.fitted]
        if case.angle:
            turn = np.arctan2(told[:, 1], told[:, 0]) - np.arctan2(true[:, 1], true[:, 0])
            found.append(float(np.degrees(np.median(np.abs(np.angle(np.exp(1j * turn)))))))
        else:
            found.append(float(np.mean(1 - ((told - true) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0))))
    return found[0], found[1]


def estimator(case: Case, seed: int, **settings: Any) -> tuple[np.ndarray, str]:
    sessions = np.unique(case.sessions[case.fitted], return_inverse=True)[1]
    est = rp.RPMEstimator(latent_dim=case.dim, random_state=seed, accelerator="cpu", **settings)
    est.fit(case.x[case.fitted], sessions=sessions)
    said = f"{est.describe().splitlines()[1].split('(')[0].split()[-1]}, window {est.window_}, lag {est.lag_}"
    return est.transform(case.x, sessions=np.unique(case.sessions, return_inverse=True)[1]), said


def untrained(case: Case, seed: int) -> tuple[np.ndarray, str]:
    return estimator(case, seed, max_steps=1, restarts=1, learning_rate=1e-9)


def cebra_time(case: Case, seed: int, distance: str = "cosine") -> tuple[np.ndarray, str]:
    import cebra  # pyright: ignore[reportMissingImports]

    torch.manual_seed(seed)
    model = cebra.CEBRA(
        model_architecture="offset10-model", batch_size=512, learning_rate=3e-4, output_dimension=case.dim,
        max_iterations=2000, distance=distance, conditional="time", time_offsets=10, device="cpu", verbose=False,
    )  # fmt: skip
    return model.fit(case.x[case.fitted]).transform(case.x), "offset10"


def cebra_euclidean(case: Case, seed: int) -> tuple[np.ndarray, str]:
    return cebra_time(case, seed, "euclidean")


def components(case: Case, seed: int) -> tuple[np.ndarray, str]:
    rows = case.x.reshape(len(case.x), -1).astype(np.float32)
    if case.x.ndim == 2:
        parts = [gaussian_filter1d(rows[case.sessions == s], case.smooth, axis=0) for s in np.unique(case.sessions)]
        rows = np.concatenate(parts)
    return PCA(case.dim, random_state=0).fit(rows[case.fitted]).transform(rows), f"smoothed over {case.smooth:g} rows"


def gpfa(case: Case, seed: int) -> tuple[np.ndarray, str]:
    from elephant.gpfa import gpfa_core  # pyright: ignore[reportMissingImports]

    # Segments of 100 rows: the method's cost grows with the cube of their length.
    rows, size = case.x.astype(float), 100
    cuts = [np.arange(len(rows))[k : k + size] for k in range(0, len(rows), size)]
    kind = [("T", int), ("y", object)]
    fit = np.array([(len(c), rows[c].T) for c in cuts if case.fitted[c].all() and len(c) == size], dtype=kind)
    every = np.array([(len(c), rows[c].T) for c in cuts], dtype=kind)
    parameters, _ = gpfa_core.fit(fit[:60], x_dim=case.dim, bin_width=50.0, em_max_iters=30, verbose=False)
    found, _ = gpfa_core.exact_inference_with_ll(every, parameters, get_ll=False)
    return np.concatenate([one["latent_variable"].T for one in found]), "segments of 100 rows"


def supervised(case: Case, seed: int) -> tuple[np.ndarray, str]:
    rows = case.x.reshape(len(case.x), -1).astype(np.float32)
    if case.x.ndim == 2 and case.smooth > 1:
        rows = np.concatenate([gaussian_filter1d(rows[case.sessions == s], case.smooth, axis=0)
                               for s in np.unique(case.sessions)])  # fmt: skip
    elif case.x.ndim > 2:
        rows = PCA(50, random_state=0).fit(rows[case.fitted][::3]).transform(rows)
    mean, scale = rows[case.fitted].mean(0), rows[case.fitted].std(0) + 1e-6
    centre, spread = case.truth[case.fitted].mean(0), case.truth[case.fitted].std(0)
    net = MLPRegressor(hidden_layer_sizes=(256, 256), alpha=1, early_stopping=True, random_state=seed, max_iter=60)
    net.fit((rows[case.fitted] - mean) / scale, ((case.truth[case.fitted] - centre) / spread).squeeze())
    told = net.predict((rows - mean) / scale).reshape(len(rows), -1)
    return told * spread + centre, "two hidden layers, weight decay 1"


WAYS = {
    "estimator": estimator, "CEBRA-Time": cebra_time, "CEBRA-Time Euclidean": cebra_euclidean,
    "components": components, "GPFA": gpfa, "untrained": untrained, "supervised": supervised,
}  # fmt: skip
NEEDS = {"CEBRA-Time": "cebra", "CEBRA-Time Euclidean": "cebra", "GPFA": "elephant"}
ONCE = ("components", "GPFA")  # no seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--only", nargs="+", default=list(CASES))
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        case = CASES[name](options.cases)
        for way in options.ways:
            if (way in NEEDS and (case.x.ndim > 2 or not find_spec(NEEDS[way]))):
                continue
            rows = []
            for seed in options.seeds[: 1 if way in ONCE else None]:
                start = time.process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FitWarning)
                    z, said = WAYS[way](case, seed)
                rows.append((*read_outs(case, z), time.process_time() - start))
                line = {"case": name, "way": way, "seed": seed, "neighbours": rows[-1][0], "linear": rows[-1][1]}
                print(json.dumps(line | {"cpu_s": round(rows[-1][2], 1), "settings": said}), flush=True)
            if len(rows) > 1:
                near, linear = (mean_interval([row[k] for row in rows]) for k in (0, 1))
                seconds = np.median([row[2] for row in rows])
                print(f"  {name} {way}: neighbours {near}, linear {linear}, {seconds:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
