"""Mutual information of joint distributions whose truth is known, by `recparam.estimate_mutual_information`.

    python benchmarks/mutual_information.py FILE.npz [--markdown]

FILE holds, for each task, `TASK/true_mi_nats` and `TASK/seed0/x`, `TASK/seed0/x_prime`, ... The first half of
the pairs is fitted, the second half scored, with the function's defaults.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import recparam as rp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--tasks", nargs="*", help="names, or their beginnings; all if not given")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with np.load(arguments.file, allow_pickle=False) as data:
        names = sorted({key.split("/")[0] for key in data})
        print("| task | seed | truth | lower bound | estimate | estimate - truth | critic | CPU s |")
        print("|---|---|---|---|---|---|---|---|")
        for name in names:
            if arguments.tasks and not any(name.startswith(task) for task in arguments.tasks):
                continue
            truth = float(data[f"{name}/true_mi_nats"])
            for seed in sorted({key.split("/")[1] for key in data if key.startswith(f"{name}/seed")}):
                x, x_prime = data[f"{name}/{seed}/x"], data[f"{name}/{seed}/x_prime"]
                half, started = len(x) // 2, time.process_time()
                mi = rp.estimate_mutual_information(
                    x[:half], x_prime[:half], x_test=x[half:], x_prime_test=x_prime[half:]
                )
                spent = time.process_time() - started
                print(
                    f"| {name} | {seed[4:]} | {truth:.3f} | {float(mi.lower):.3f} ± {mi.lower.standard_error:.3f} "
                    f"| {float(mi.estimate):.3f} | {float(mi.estimate) - truth:+.3f} | {mi.critic} | {spent:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
