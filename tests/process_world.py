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
from recparam.bounds import Bound
from recparam.ops import (
    BlockScore,
    DotProduct,
    GaussianDensity,
    OnColumns,
    Score,
    SquaredDistance,
    SumOfScores,
    pairwise_infonce,
    pairwise_logsumexp,
)
from recparam.ops.collectives import Handed, gather_rows
from recparam.ops.ring import pairwise_infonce_ring, pairwise_logsumexp_ring
from recparam.recognition import Particles
from recparam.recognition.posteriors import RecognitionPosterior

DIM = 3
SCORES = ["dot", "cosine", "distance", "density", "sum", "callable"]
OPERATIONS = ["infonce", "infonce without the positive", "logsumexp"]
SETTINGS = ["near", "far", "solved"]


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


def parts(setting: str, name: str, dtype: torch.dtype, processes: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Queries, bank and upstream gradients of each process; numbers of rows differ, as do banks' from queries'."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for rank in range(processes):
        rows, columns = (3, 1, 4)[rank], (3, 2, 5)[rank]
        z, bank = (torch.randn(k, DIM, generator=generator, dtype=torch.float64) for k in (rows, columns))
        if setting == "far":
            z, bank = z + 1000, bank + 1000
        if setting == "solved":  # every positive stands far above the rest
            bank = 7 * torch.eye(DIM, dtype=torch.float64)[torch.arange(columns) % DIM] * (1 + rank)
            bank = bank + torch.randn(bank.shape, generator=generator, dtype=torch.float64)
            z = bank[:rows].clone()
        if name == "density":
            bank = torch.cat([bank, torch.rand(columns, DIM, generator=generator, dtype=torch.float64) + 0.5], -1)
        upstream = torch.rand(rows, generator=generator, dtype=torch.float64)
        # The same rounded inputs in either precision.
        result.append(tuple(part.float().to(dtype) for part in (z, bank, upstream)))
    return result


def make(name: str, parameter: Tensor) -> Score:
    """A score with parameters, per dimension."""
    some = OnColumns(DotProduct(scale=parameter[0]), [0, 2], slice(1, 3))
    return {
        "dot": DotProduct(weight=torch.diag(parameter)),
        "cosine": DotProduct(scale=parameter.sum(), normalise=True),
        "distance": SquaredDistance(parameter),
        "density": GaussianDensity(),
        "sum": SumOfScores([SquaredDistance(parameter), some]),
        "callable": BlockScore(lambda z, bank: -(z[:, None] - bank).abs().mul(parameter).sum(-1)),
    }[name]


def evaluate(operation: str, score: Score, z: Tensor, bank: Tensor, *, ring: bool, positives: Tensor | None) -> Tensor:
    if operation == "logsumexp":
        return pairwise_logsumexp_ring(score, z, bank) if ring else pairwise_logsumexp(score, z, bank)
    keep = operation == "infonce"
    if ring:
        return pairwise_infonce_ring(score, z, bank, keep_positive=keep)
    return pairwise_infonce(score, z, bank, positives=positives, keep_positive=keep)


def kernel(
    name: str, z: Tensor, bank: Tensor, upstream: Tensor, *, ring: bool, operation: str, positives: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Value, and gradients in queries, bank and parameter."""
    parameter = torch.tensor([0.7, 1.3, 2.0], dtype=z.dtype, requires_grad=True)
    z, bank = z.clone().requires_grad_(), bank.clone().requires_grad_()
    value = evaluate(operation, make(name, parameter), z, bank, ring=ring, positives=positives)
    gradients = torch.autograd.grad(upstream @ value, (z, bank, parameter), allow_unused=True, materialize_grads=True)
    return value.detach(), *gradients


def cases() -> list[tuple[str, str, str, torch.dtype]]:
    near = [("near", n, o, d) for n in SCORES for o in OPERATIONS for d in (torch.float32, torch.float64)]
    far = [("far", n, "infonce", d) for n in ("distance", "density") for d in (torch.float32, torch.float64)]
    solved = [("solved", n, "infonce", d) for n in ("dot", "distance") for d in (torch.float32, torch.float64)]
    return near + far + solved


def kernel_on(rank: int) -> dict[Any, tuple[Tensor, ...]]:
    world = dist.get_world_size()
    return {
        case: kernel(case[1], *parts(case[0], case[1], case[3], world)[rank], ring=True, operation=case[2])
        for case in cases()
    }


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
        lambda: pairwise_infonce_ring(DotProduct(), torch.zeros(2, 3 + rank), torch.zeros(2, 3 + rank)),
        lambda: pairwise_infonce_ring(DotProduct(), torch.zeros(2, 3), torch.zeros(2, 3, requires_grad=rank == 0)),
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


MODELS = ["infonce", "three", "labels", "weights", "categorical", "gaussian", "alone"]


def build(name: str) -> rp.RPM:
    """A model in double precision, with the same parameters everywhere."""
    torch.manual_seed(3)
    if name == "categorical":
        model = rp.RPM(rp.Categorical(nn.Linear(4, 3)), rp.OptimalPrior())
    elif name == "gaussian":
        model = rp.RPM(rp.Gaussian(nn.Linear(4, 4)), rp.JointGaussianPrior(2), posterior=Drawn())
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


def operations_on(rank: int) -> dict[str, Any]:
    """Everything that needs no special group, in one start of the processes."""
    return {
        "kernel": kernel_on(rank),
        "gather": gather_on(rank),
        "disagree": disagree_on(rank),
        "models": models_on(rank),
    }


def left_alone_on(rank: int) -> list[tuple[str, float]]:
    """Process 0 first keeps silent, then dies; what the others are told, and after how many seconds."""
    groups = [dist.new_group(timeout=timedelta(seconds=1)) for _ in range(3)]
    z = torch.ones(2, 3)
    calls: list[Callable[[], Any]] = [
        lambda: pairwise_infonce_ring(DotProduct(), z, z, group=groups[0]),
        lambda: gather_rows(z, groups[1]),
        lambda: Handed("pairwise_infonce_ring", z, z.clone(), group=groups[2]).arrived(),
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
