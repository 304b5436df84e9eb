"""Steps as they are captured on a GPU: nothing is read on the host, what changes is on the device, noise is new."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compress.training.processes import Processes
from compress.training.replay import EagerStep, ReplayedStep, adam, set_share, stepped
from compress.training.state import seed_step
from search.quantnas import Mode, NoiseSource, QuantisedNetwork, QuantSettings, SearchSettings, Supernet, bitops_costs
from search.quantnas.bilevel_step import BilevelStep, will_replay
from search.quantnas.projection import Projection
from tests.marks import needs_gpu
from workloads.super_resolution.models.searched import Genotype, load_space

ALONE = Processes(0, 1, torch.device("cpu"))
GPU = Processes(0, 1, torch.device("cuda"))
MADE_ON_HOST = {"aten.lift_fresh.default", "aten._local_scalar_dense.default", "aten.nonzero.default"}


class HostReadError(Exception):
    pass


class _NoHost(TorchDispatchMode):
    """Refuses what makes a GPU wait for the host: values that are read, and tensors that are made of Python's."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if str(func) in MADE_ON_HOST:
            raise HostReadError(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every branch takes the way of a GPU; the kernels are those of the CPU."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)


def _stepper(space: str, settings: SearchSettings, processes: Processes = ALONE) -> tuple[BilevelStep, Any]:
    sized = load_space(space).resized(width=12, cells=1)
    torch.manual_seed(0)
    net = Supernet(sized, settings.quant, adq=True)
    batch = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64)
    net.measure_steps(batch[0])
    net.to(processes.device).train()
    return BilevelStep(net, bitops_costs(sized), settings, processes), batch


@pytest.mark.parametrize("space", ["basic", "rfdn"])
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.usefixtures("as_on_gpu")
def test_a_search_step_reads_nothing_on_the_host(space: str, mode: Mode) -> None:
    steps, (x, target) = _stepper(space, SearchSettings(quant=QuantSettings(mode=mode)))
    for weights in (False, True):
        steps.net.learn(weights=weights)
        for guarded in (False, True):
            if not guarded:
                # What is kept from then on may be made in the first step, which is not captured.
                _backward(steps, x, target)
                continue
            with _NoHost():
                _backward(steps, x, target)
    assert all(p.grad is not None for p in steps.logits.values())


def _backward(steps: BilevelStep, x: Tensor, target: Tensor) -> None:
    total = steps.loss((x, target)) + steps.table.expected(steps.net.alphas()) * 1e-9
    if any(p.requires_grad for p in steps.logits.values()):
        total = total + steps._sparsity()
    torch.autograd.backward(total)


@pytest.mark.usefixtures("as_on_gpu")
def test_a_retraining_step_reads_nothing_on_the_host() -> None:
    network = QuantisedNetwork(Genotype.uniform(load_space("rfdn").resized(width=12, cells=1), "simple_3x3", 4))
    x = torch.rand(2, 3, 16, 16)
    network.measure_steps(x)
    with _NoHost():
        torch.autograd.backward(network(x).square().mean())
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.usefixtures("as_on_gpu")
def test_the_guard_sees_what_would_break_a_capture() -> None:
    """Masked choices and tables of noise ask the host for a value in each step; therefore they are not captured."""
    for settings in (
        SearchSettings(projection=Projection.MASKED),
        SearchSettings(quant=QuantSettings(source=NoiseSource.TABLE)),
    ):
        steps, (x, target) = _stepper("basic", settings)
        steps.net.projection = settings.projection
        steps.net.learn(weights=False)
        _backward(steps, x, target)
        with pytest.raises(HostReadError), _NoHost():
            _backward(steps, x, target)


def test_only_what_can_be_captured_is() -> None:
    assert will_replay(SearchSettings(), GPU)
    assert not will_replay(SearchSettings(), ALONE)
    assert not will_replay(SearchSettings(), dataclasses.replace(GPU, size=2))
    for changes in (
        {"replay": False}, {"recompute": True}, {"projection": Projection.MASKED}, {"temperature": (10.0, 0.1)},
        {"quant": QuantSettings(source=NoiseSource.TABLE)},
    ):  # fmt: skip
        assert not will_replay(SearchSettings(**changes), GPU), changes


def test_on_a_cpu_a_step_is_run_as_it_is() -> None:
    parameter = torch.nn.Parameter(torch.ones(()))
    optimizer = adam([parameter], 0.5, ALONE)

    def compute(x: Tensor, target: Tensor) -> Tensor:
        assert parameter.grad is None
        loss = (parameter * x - target).square()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    step = stepped("step", compute, optimizer, replayed=False)
    assert type(step) is EagerStep
    set_share(optimizer, 0.5)
    assert float(step(torch.ones(()), torch.zeros(()))) == 1.0
    assert float(parameter.detach()) == pytest.approx(0.75)
    assert float(step(torch.ones(()), torch.zeros(()))) == pytest.approx(0.75**2)


def test_a_search_step_follows_penalty_and_rate_of_each_call() -> None:
    """A captured step would keep a Python number that it was captured with."""
    settings = SearchSettings(quant=QuantSettings(mode=Mode.FLOAT), alpha_rate=0.1)
    steps, batch = _stepper("basic", settings)
    steps.net.eval()
    seen = []
    for penalty in (0.0, 1e3):
        steps.alpha(batch, penalty, 0.0)
        seen.append(torch.cat([p.grad.flatten() for p in steps.logits.values()]))
    assert float((seen[1] - seen[0]).abs().max()) > 1.0
    before = {n: p.detach().clone() for n, p in steps.weights.items()}
    steps.weight(batch, 10, 10)
    assert all(torch.equal(p, before[n]) for n, p in steps.weights.items())


@needs_gpu
def test_noise_differs_in_each_replay_and_follows_the_seed() -> None:
    settings = SearchSettings(quant=QuantSettings(), weight_rate=1e-12)
    steps, batch = _stepper("basic", settings, GPU)
    for number in range(6):
        seed_step(1, number, 0)
        steps.weight(batch, number, 100)
    assert isinstance(steps._weight, ReplayedStep)
    assert steps._weight.graph is not None
    losses = []
    for seed in (5, 6, 5):
        seed_step(seed, 0, 0)
        losses.append(float(steps.weight(batch, 9, 100)))
    assert losses[0] == losses[2] != losses[1]


@needs_gpu
@pytest.mark.parametrize("mode", [Mode.DIRECT, Mode.FLOAT])
def test_replayed_steps_move_as_far_as_steps_kernel_by_kernel(mode: Mode) -> None:
    ends = []
    for replay in (False, True):
        settings = SearchSettings(quant=QuantSettings(mode=mode), replay=replay, alpha_rate=0.01)
        steps, batch = _stepper("basic", settings, GPU)
        for number in range(8):
            steps.alpha(batch, 1e-2 * number, 1e-3 * number)
            steps.weight(batch, number, 8)
        assert steps.replayed is replay
        ends.append(torch.cat([p.detach().flatten() for p in steps.logits.values()]))
    assert float(ends[0].abs().max()) > 0.02
    assert torch.allclose(ends[0], ends[1], atol=2e-3)
