"""CPU time of the estimator beside CEBRA's and a bare torch loop's, at the same iterations, batch and learning rate.

    python benchmarks/estimator_speed.py CASES/walk.npz [--repeats 5]

Each fits the first 8,000 rows of x on one thread, for 500 iterations of batch 512 at learning rate 3e-3, in a process
of its own, so that peak memory (the largest resident size above that before the fit) is its own; R2 is that of linear
decoding of z on the rest. CEBRA is cebra 0.6.1 with its Euclidean criterion and model ("offset1-model-mse"), paired at
one time offset. The bare loop and the estimator have two hidden layers of 64 and pair rows that are one to three
apart; the loop has neither validation nor alarms nor anything else. Where cebra is not installed (`pip install
cebra`), it is left out.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recparam.evaluation import LinearDecoder, r2

STEPS, BATCH, RATE, ROWS = 500, 512, 3e-3, 8000
LAGS, HIDDEN = (1, 2, 3), (64, 64)


def by_cebra(x: np.ndarray) -> np.ndarray:
    import cebra  # pyright: ignore[reportMissingImports]

    model = cebra.CEBRA(
        model_architecture="offset1-model-mse",
        distance="euclidean",
        conditional="time",
        time_offsets=1,
        output_dimension=2,
        batch_size=BATCH,
        max_iterations=STEPS,
        learning_rate=RATE,
        device="cpu",
        verbose=False,
    )
    return model.fit(x[:ROWS]).transform(x)


def by_loop(x: np.ndarray) -> np.ndarray:
    """InfoNCE with a Gaussian coupling in plain torch, without anything that the estimator adds."""
    import torch

    import recparam as rp

    data = torch.from_numpy((x - x[:ROWS].mean(0)) / x[:ROWS].std(0))
    net, log_scale = rp.MLP(x.shape[1], 2, hidden=HIDDEN), torch.zeros((), requires_grad=True)
    with torch.no_grad():
        log_scale.copy_(torch.pdist(net(data[:BATCH])).median().log())
    optimiser = torch.optim.Adam([*net.parameters(), log_scale], lr=RATE)
    generator = np.random.default_rng(0)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - step / STEPS))
        rows = torch.from_numpy(generator.integers(0, ROWS - max(LAGS), BATCH))
        later = rows + torch.from_numpy(generator.choice(LAGS, BATCH))
        z, z_prime = (net(torch.cat([data[rows], data[later]])) / log_scale.exp()).chunk(2)
        scores = z @ z_prime.T - 0.5 * (z.square().sum(1)[:, None] + z_prime.square().sum(1))
        loss = (scores.logsumexp(1) - scores.diagonal()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return net(data).numpy()


def by_estimator(x: np.ndarray) -> np.ndarray:
    import recparam as rp

    estimator = rp.RPMEstimator(
        encoder=rp.MLP(x.shape[1], 2, hidden=HIDDEN),
        lag=LAGS,
        max_steps=STEPS,
        batch_size=BATCH,
        learning_rate=RATE,
        restarts=1,
        random_state=0,
    )
    return estimator.fit(x[:ROWS]).transform(x)


WAYS = {"cebra": by_cebra, "bare loop": by_loop, "estimator": by_estimator}


def measure(way: str, file: Path) -> dict[str, Any]:
    """CPU seconds, growth of peak memory in MiB, and R2 of one fit, in this process."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(file) as data:
        x, truth = data["x"].astype(np.float32), data["z"].astype(np.float64)
    import_module("cebra" if way == "cebra" else "recparam.estimator")  # not timed
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    z = WAYS[way](x)
    seconds = time.process_time() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    predicted = LinearDecoder().fit(z[:ROWS], truth[:ROWS]).predict(z[ROWS:])
    scores = [r2(one, true) for one, true in zip(predicted.T, truth[ROWS:].T, strict=True)]
    return {"seconds": seconds, "peak_mib": peak, "r2": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="walk.npz, with x and z")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--way", choices=list(WAYS), help="one fit in this process, as JSON")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.file)))
        return
    ways = [way for way in WAYS if way != "cebra" or find_spec("cebra")]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(options.repeats):  # in turn, so that a busy stretch of the machine meets all of them
        for way in ways:
            command = [sys.executable, __file__, str(options.file), "--way", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    print("| way | CPU s, median | estimator's time over it | peak memory, MiB | R2 of z |\n|---|---|---|---|---|")
    for way in ways:
        seconds, peak = (statistics.median(run[name] for run in found[way]) for name in ("seconds", "peak_mib"))
        ratio = statistics.median(
            own["seconds"] / other["seconds"] for own, other in zip(found["estimator"], found[way], strict=True)
        )
        shown = " / ".join(f"{value:.3f}" for value in found[way][0]["r2"])
        print(f"| {way} | {seconds:.2f} | {ratio:.2f} | {peak:.0f} | {shown} |")


if __name__ == "__main__":
    main()
