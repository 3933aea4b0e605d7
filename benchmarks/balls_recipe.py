"""Choose the recommended training of the moving-balls experiment by the held-out bound.

    python benchmarks/balls_recipe.py --seeds 100 --out runs/recipe

Trains the Gaussian prior with each candidate on 64x64 videos and prints the bound on a fresh video, all of its
pairs as one bank: the self-included estimate and the lower side, in nats. The labels are not read. The seeds
are not those of the results.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import recparam as rp
from recparam.experiments.balls.arms import make_videos
from recparam.experiments.balls.models import initial_encoder
from recparam.experiments.balls.settings import VIDEOS, Run, Training, make_settings
from recparam.networks import recalibrate_batch_norm
from recparam.training import PairBatches, RPMModule, fit
from recparam.utils.storage import write_json

CANDIDATES = {
    "SGD .02, momentum .9": ("constant", Training("sgd", 0.02, 0.9, None)),
    "SGD .02, momentum .9, cosine": ("cosine", Training("sgd", 0.02, 0.9, None)),
    "SGD .05, momentum .9": ("constant", Training("sgd", 0.05, 0.9, None)),
    "SGD .1, momentum .9, cosine": ("cosine", Training("sgd", 0.1, 0.9, None)),
    "Adam .01": ("constant", Training("adam", 0.01, 0.0, None)),
}


def heldout(schedule: str, training: Training, video: str, seed: int, *, size: int, epochs: int) -> dict[str, float]:
    """Train one candidate; return the bounds on the fresh video in nats."""
    settings = make_settings("quick", size=size, epochs=epochs)
    videos = make_videos(settings, Run(video, seed, "recipe"))
    frames, fresh = torch.as_tensor(videos.train.frames), torch.as_tensor(videos.fresh.frames)
    encoder = initial_encoder(settings, seed)
    model = rp.RPM(rp.Deterministic(encoder), rp.InfoNCEPrior(rp.GaussianRBF()))
    module = RPMModule(
        model, optimiser=training.optimiser, lr=training.lr, momentum=training.momentum, schedule=schedule
    )
    batches = PairBatches(frames, batch_size=settings.batch_size, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        fit(module, batches, epochs=epochs, folder=Path(folder), seed=seed, progress=False, accelerator="cpu")
    recalibrate_batch_norm(encoder, frames.split(2 * settings.batch_size))
    model.eval()
    with torch.no_grad():
        z = torch.cat([model.encode(chunk).mean for chunk in fresh.split(60)])
        sides = {"estimate": None, "lower": "lower"}
        return {name: float(model.prior.log_ratio(z[:-1], z[1:], side=side).mean()) for name, side in sides.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100])
    parser.add_argument("--videos", nargs="+", default=list(VIDEOS))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, required=True, help="folder for recipe.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name, (schedule, training) in CANDIDATES.items():
        for video in options.videos:
            for seed in options.seeds:
                nats = heldout(schedule, training, video, seed, size=options.size, epochs=options.epochs)
                rows.append({"candidate": name, "video": video, "seed": seed, **nats})
                print(f"{name:30s} {video:8s} seed {seed}: {nats['estimate']:.3f} nats, lower {nats['lower']:.3f}")
                write_json(options.out / "recipe.json", rows)


if __name__ == "__main__":
    main()
