"""How often the estimator's intervals hold the truth: of `transform(return_std=True)`, by default settings.

    python benchmarks/coverage.py CASES [--only rat few_cells arena_1] [--seeds 0 1 2 3 4]

Cases are those of `recordings.py`. Latents are mapped to the truth by least squares on the fitted rows; a deviation of
the truth's axis k is that of independent latents, sqrt(sum_d A_kd^2 std_d^2). Printed: the part of the other rows whose
error is within 1.645 deviations, for each axis, which is 90 % of a normal distribution.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from recordings import CASES  # of this folder
from sklearn.linear_model import LinearRegression

import recparam as rp
from recparam.estimator import FitWarning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--only", nargs="+", default=["rat", "few_cells", "arena_1"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        case, every = CASES[name](options.cases), []
        for seed in options.seeds:
            est = rp.RPMEstimator(latent_dim=case.dim, random_state=seed, accelerator="cpu")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)
                est.fit(case.x[case.fitted], sessions=np.unique(case.sessions[case.fitted], return_inverse=True)[1])
            z, std = est.transform(case.x, sessions=case.sessions, return_std=True)
            line = LinearRegression().fit(z[case.fitted], case.truth[case.fitted])
            error = line.predict(z[~case.fitted]) - case.truth[~case.fitted]
            covered = np.abs(error) < 1.645 * np.sqrt(std[~case.fitted] ** 2 @ (line.coef_**2).T)
            every.append(covered.mean(0))
            print(name, seed, f"window {est.window_}", "covered", every[-1].round(3), flush=True)
        print(f"  {name}: {np.mean(every):.3f} [{np.min(every):.3f}, {np.max(every):.3f}]", flush=True)


if __name__ == "__main__":
    main()
