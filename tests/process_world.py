"""What the processes of a group compute in test_processes.py; on its own so that a spawned one can import it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.parallel import DistributedDataParallel

import recparam as rp
from recparam.bounds import Bound, losses
from recparam.ops.collectives import gather_rows, row_counts
from recparam.recognition import Particles
from recparam.recognition.posteriors import RecognitionPosterior


def start(work: Callable[..., Any], folder: Path, *, processes: int, timeout: float = 60) -> list[Any]:
    """Run `work(rank)` in that many processes of one gloo group; what each returned, None of one that died."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_enter, (work, str(folder), processes, timeout), nprocs=processes)
    paths = [folder / f"{rank}.pt" for rank in range(processes)]
    return [torch.load(path, weights_only=False) if path.exists() else None for path in paths]


def _enter(rank: int, work: Callable[..., Any], folder: str, processes: int, timeout: float) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    limit = timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes, timeout=limit)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def gather_on(rank: int) -> tuple[Tensor, ...]:
    x = torch.arange(float((rank + 1) % 3 * 2)).reshape(-1, 2) + 10 * rank
    x.requires_grad_()
    rows = gather_rows(x)
    (gradient,) = torch.autograd.grad(((rank + 1) * rows).sum() + (rows * rows).sum(), x)
    return x.detach(), rows.detach(), gradient


def disagree_on(rank: int) -> list[str]:
    calls: list[Callable[[], Tensor]] = [
        lambda: gather_rows(torch.zeros(2, 3 + rank)),
        lambda: gather_rows(torch.zeros(2, 3, requires_grad=rank == 0)),
    ]
    messages = []
    for call in calls:
        try:
            call()
        except ValueError as error:
            messages.append(str(error))
    return messages


class Drawn(RecognitionPosterior):
    """Draws whose noise is given, so that they do not depend on who draws them."""

    noise: Tensor

    def forward(
        self,
        distributions: Sequence[Distribution],
        observations: Sequence[Tensor],
        *,
        rows: Tensor | None = None,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Particles:
        latents = tuple(d.mean + d.stddev * part for d, part in zip(distributions, self.noise, strict=True))
        return Particles(latents, torch.full_like(latents[0][..., 0], 0.5).log(), exact=False)


class OfGroups(nn.Module):
    """`rp.elbo_of_groups` of two groups of two latents."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.prior = nn.Linear(4, 4), rp.InfoNCEPrior(rp.Groups(rp.GaussianRBF(), [[0, 1], [2, 3]]))

    def forward(self, *x: Tensor) -> Bound:
        return rp.elbo_of_groups(self.prior, *(self.encoder(part) for part in x))


MODELS = ["infonce", "three", "labels", "weights", "categorical", "gaussian", "groups", "alone"]


def build(name: str) -> nn.Module:
    """A model in double precision, with the same parameters everywhere."""
    torch.manual_seed(3)
    if name == "categorical":
        model = rp.RPM(rp.Categorical(nn.Linear(4, 3)), rp.OptimalPrior())
    elif name == "gaussian":
        model = rp.RPM(rp.Gaussian(nn.Linear(4, 4)), rp.JointGaussianPrior(2), posterior=Drawn())
    elif name == "groups":
        model = OfGroups()
    else:
        marginal = rp.BatchMarginal(across_processes=name != "alone")
        model = rp.RPM(rp.Deterministic(nn.Linear(4, 2)), rp.InfoNCEPrior(rp.GaussianRBF()), marginal=marginal)
    return model.double()


def score(name: str, model: Any, rows: slice, *, all_weights: bool = False) -> Bound:
    """The bound of some of eight rows; a call of `model` itself, as DistributedDataParallel needs."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3 if name == "three" else 2, 8, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 2, 8, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(8, generator=generator, dtype=torch.float64)
    options: dict[str, Any] = {}
    if name == "labels":  # rows 0 and 7 are one observation, on different processes
        labels = rp.Labels(identities=torch.tensor([0, 1, 2, 3, 4, 5, 6, 0]), sessions=torch.arange(8) % 3)
        options = {"labels": labels.map(lambda part: part[rows]), "side": "upper"}
    if name == "weights":
        options = {"weights": whole_weights(weights) if all_weights else weights[rows]}
    if name == "gaussian":
        (model.module if isinstance(model, DistributedDataParallel) else model).posterior.noise = noise[:, :, rows]
    return model(*x[:, rows], **options)


SHARES = [slice(0, 5), slice(5, 8)]


def whole_weights(weights: Tensor) -> Tensor:
    """Of all rows, where the shares' weights are each normalised and a share counts as its rows do."""
    return torch.cat([weights[rows] / weights[rows].sum() * (rows.stop - rows.start) / 8 for rows in SHARES])


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def models_on(rank: int) -> dict[str, Any]:
    """Bound and averaged gradients of each model, from uneven shares of eight rows."""
    result: dict[str, Any] = {}
    if dist.get_world_size() != len(SHARES):
        return result
    for name in MODELS:
        model = build(name)
        parallel = DistributedDataParallel(model)  # held until after backward, where it averages
        bound = score(name, parallel, SHARES[rank])
        bound.value.backward()
        result[name] = {
            "value": bound.value.detach(),
            "rows": bound.per_observation.detach(),
            "ceiling": bound.ceiling,
            "gradients": gradients_of(model),
        }
    return result


LOSSES: dict[str, Callable[..., Any]] = {
    "info_nce": lambda f, z, y, **o: losses.info_nce(f, z, y, **o),
    "moco": lambda f, z, y, **o: losses.info_nce(f, z, y, negatives=fixed_negatives(), **o),
    "nt_xent": lambda f, z, y, **o: losses.nt_xent(f, z, y, **o),
    "clip": lambda f, z, y, **o: losses.clip(f, z, y, **o),
    "cebra": lambda f, z, y, **o: losses.cebra(f, z, y, fixed_negatives(), **o),
    "cpc": lambda f, z, y, **o: losses.cpc([f, f], z, [y, y + 0.1 * z], **o),
    "infonce": lambda f, z, y, **o: rp.infonce(f, z, y, **o),
    "model": lambda f, z, y, **o: rp.RPM(
        rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(f)
    ).train().infonce(z, y, **o),
}  # fmt: skip


def fixed_negatives() -> Tensor:
    return torch.randn(6, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


class Contrasted(nn.Module):
    """An encoder and a coupling that waits for data, under a loss."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net, self.coupling, self.name = nn.Linear(4, 2).double(), rp.GaussianRBF().double(), name

    def forward(self, rows: slice, **options: Any) -> Any:
        x = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        z, z_prime = self.net(x[0, rows]), self.net(x[0, rows] + 0.3 * x[1, rows])
        return LOSSES[self.name](self.coupling, z, z_prime, **options)


UNEVEN = {2: [slice(0, 6), slice(6, 9)], 3: [slice(0, 1), slice(1, 6), slice(6, 9)]}


def losses_on(rank: int) -> dict[str, Any]:
    """Value, ceiling and averaged gradients of each loss, from uneven shares of nine rows; and of a process alone."""
    result: dict[str, Any] = {}
    count = dist.get_world_size()
    for name in LOSSES:
        model = Contrasted(name)
        parallel = DistributedDataParallel(model)
        loss = parallel(UNEVEN[count][rank])
        loss.value.backward()
        alone = Contrasted(name)
        mine = alone(slice(2 * rank, 2 * rank + 2), across_processes=False)
        result[name] = {
            "value": loss.value.detach(),
            "ceiling": ceiling(loss),
            "gradients": gradients_of(model),
            "alone": mine.value.detach(),
        }
    return result


def ceiling(loss: Any) -> float | None:
    return loss.ceiling if isinstance(loss, Bound) else loss.elbo.ceiling


def operations_on(rank: int) -> dict[str, Any]:
    """Everything that needs no special group, in one start of the processes."""
    return {
        "gather": gather_on(rank),
        "disagree": disagree_on(rank),
        "models": models_on(rank),
        "losses": losses_on(rank),
    }


def left_alone_on(rank: int) -> list[tuple[str, float]]:
    """Process 0 first keeps silent, then dies; what the others are told, and after how many seconds."""
    groups = [dist.new_group(timeout=timedelta(seconds=1)) for _ in range(2)]
    z = torch.ones(2, 3)
    calls: list[Callable[[], Any]] = [
        lambda: gather_rows(z, groups[0]),
        lambda: row_counts(z, groups[1]),
    ]
    dist.barrier()
    if rank == 0:
        time.sleep(1.5)
        os._exit(0)
    told = []
    for call in calls:
        begin = time.monotonic()
        try:
            call()
        except RuntimeError as error:
            told.append((str(error), time.monotonic() - begin))
    torch.save(told, os.environ["RECPARAM_TEST_TOLD"])
    os._exit(0)
