"""Across processes: bounds and gradients equal those of one process with the concatenated batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

import process_world as world
from process_trainer import KeepGradients
from recparam.training import RPMModule
from recparam.training.lightning.isolation import isolated

Results = list[Any]
COUNTS = [2, pytest.param(3, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Results]:
    """What each process of a group of that size computed; they start once."""
    known: dict[int, Results] = {}

    def of(processes: int) -> Results:
        if processes not in known:
            folder = tmp_path_factory.mktemp("group")
            known[processes] = world.start(world.operations_on, folder, processes=processes)
        return known[processes]

    return of


@pytest.mark.parametrize("processes", COUNTS)
def test_gather_rows(results: Callable[[int], Results], processes: int) -> None:
    """Uneven numbers of rows, one of them zero with three processes; gradients sum over the processes."""
    got = [result["gather"] for result in results(processes)]
    whole = torch.cat([x for x, _, _ in got])
    assert len({len(x) for x, _, _ in got}) == processes
    for x, rows, gradient in got:
        torch.testing.assert_close(rows, whole)
        torch.testing.assert_close(gradient, sum(range(1, processes + 1)) + processes * 2 * x)


def test_disagreement_is_an_error_everywhere(results: Callable[[int], Results]) -> None:
    for result in results(2):
        messages = result["disagree"]
        assert all(word in text for text, word in zip(messages, ["shape", "gradient"], strict=True))


@pytest.mark.parametrize("name", world.MODELS)
def test_bound_of_all_processes(results: Callable[[int], Results], name: str) -> None:
    """DDP's averages are value and gradient of one process with the concatenated, unevenly divided batch."""
    got = [result["models"][name] for result in results(2)]
    if name == "alone":  # each process has its own rows for a bank, and the mean of the two means for an objective
        assert [result["ceiling"] for result in got] == pytest.approx([math.log(5), math.log(3)])
        return
    model = world.build(name)
    bound = world.score(name, model, slice(0, 8), all_weights=True)
    bound.value.backward()
    torch.testing.assert_close(torch.cat([result["rows"] for result in got]), bound.per_observation.detach())
    torch.testing.assert_close(torch.stack([result["value"] for result in got]).mean(), bound.value.detach())
    assert [result["ceiling"] for result in got] == pytest.approx([bound.ceiling] * 2)
    expected = world.gradients_of(model)
    assert expected and any(float(gradient.abs().max()) > 1e-3 for gradient in expected.values())
    for result in got:
        assert result["gradients"].keys() == expected.keys()
        for key, gradient in expected.items():
            torch.testing.assert_close(result["gradients"][key], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("processes", COUNTS)
@pytest.mark.parametrize("name", world.LOSSES)
def test_losses_of_all_processes(results: Callable[[int], Results], name: str, processes: int) -> None:
    """Of uneven shares DDP makes value and gradient of one process with all rows; alone a process keeps to its own."""
    got = [result["losses"][name] for result in results(processes)]
    model = world.Contrasted(name)
    loss = model(slice(0, 9))
    loss.value.backward()
    torch.testing.assert_close(torch.stack([result["value"] for result in got]).mean(), loss.value.detach())
    assert [result["ceiling"] for result in got] == [world.ceiling(loss)] * processes
    expected = world.gradients_of(model)
    assert expected and any(float(gradient.abs().max()) > 1e-3 for gradient in expected.values())
    for rank, result in enumerate(got):
        for key, gradient in expected.items():
            torch.testing.assert_close(result["gradients"][key], gradient, rtol=1e-10, atol=1e-12)
        if name != "model":  # whose scale all processes set, whatever the batch
            alone = world.Contrasted(name)(slice(2 * rank, 2 * rank + 2))
            torch.testing.assert_close(result["alone"], alone.value.detach(), rtol=0, atol=0)


def test_lightning_with_two_devices(tmp_path: Path) -> None:
    """Nothing but the trainer's number of devices changes: gradients and weights are those of the whole batch."""
    x = torch.randn(2, 8, 4, dtype=torch.float64)
    module = RPMModule(world.build("infonce"), optimiser="sgd", lr=0.1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*x), batch_size=4)
    with isolated():
        Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp_spawn",
            max_epochs=2,
            callbacks=[KeepGradients(tmp_path)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        ).fit(module, data)
    model = world.build("infonce")
    model.initialise(*x)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimiser.zero_grad()
        (-model.elbo(*x).value).backward()
        for rank in range(2):
            kept = torch.load(tmp_path / f"{rank}-{step}.pt")
            for key, gradient in world.gradients_of(model).items():
                torch.testing.assert_close(kept[f"model.{key}"], gradient, rtol=1e-10, atol=1e-12)
        optimiser.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(module.model.get_parameter(name), parameter, rtol=1e-10, atol=1e-12)


def test_a_silent_or_dead_process_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECPARAM_TEST_TOLD", str(tmp_path / "told.pt"))
    world.start(world.left_alone_on, tmp_path, processes=2)
    told = torch.load(tmp_path / "told.pt")
    for (message, seconds), operation in zip(told, ["gather_rows", "row_counts"], strict=True):
        assert message.startswith(f"{operation}: a process of the group did not answer")
        assert seconds < 10
    assert told[0][1] > 0.8  # of the silent one, the time limit


def test_without_a_group_nothing_is_gathered() -> None:
    x = torch.randn(3, 2)
    assert world.gather_rows(x) is x
