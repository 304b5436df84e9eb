"""Phases of sparse training: resumed to the bit, zero for good once the mask stands, hard-masked where it is judged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.sparsity.methods import METHODS
from compress.sparsity.step_adam import StepAdam
from compress.sparsity.training import SparseTraining, forget
from tests.compress.sparsity.method_helpers import PATTERN, PHASES, made, network, run, setup


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("period", [1, 4])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(name: str, period: int) -> None:
    whole, training, optimizer = made(name, period)
    run(name, range(40), whole, training, optimizer)
    for cut in (3, 17, 31):
        first, training, optimizer = made(name, period)
        run(name, range(cut), first, training, optimizer)
        saved, moments = {k: v.clone() for k, v in first.state_dict().items()}, optimizer.state_dict()
        second, training, optimizer = made(name, period)
        second.load_state_dict(saved)
        optimizer.load_state_dict(moments)
        run(name, range(cut, 40), second, training, optimizer)
        for key, value in whole.state_dict().items():
            assert torch.equal(value, second.state_dict()[key]), (cut, key)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "step_adam"])
@pytest.mark.parametrize("name", ["mdgf_exponential", "sdgf_stepwise", "sr_ste_frozen", "one_shot"])
def test_fixed_mask_keeps_weights_and_moments_at_zero(name: str, kind: str) -> None:
    """Trap: momentum, coupled decay and a mask that still moves in "fine-tuning" bring pruned weights back."""
    model = network()
    training = SparseTraining(model, {"0": PATTERN, "2": PATTERN}, METHODS[name], PHASES)
    optimizer: torch.optim.Optimizer = {
        "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, amsgrad=True),
        "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
        "step_adam": lambda p: StepAdam(p, lr=1e-2, weight_decay=0.1),
    }[kind](model.parameters())
    run(name, range(PHASES.end), model, training, optimizer)
    masks: dict[str, Tensor] = {}
    for step in range(PHASES.end, PHASES.total):
        run(name, range(step, step + 1), model, training, optimizer)
        for key, layer in training.layers.items():
            assert torch.equal(layer.mask, masks.setdefault(key, layer.mask.clone()))
            assert not layer.master[~layer.mask].any()
            for value in optimizer.state[layer.master].values():
                if isinstance(value, Tensor) and value.shape == layer.mask.shape:
                    assert not value[~layer.mask].any()
    found = training.finish()
    assert all(int(m.view(8 if k == "2" else 32, -1, 4).sum(2).max()) == 1 for k, m in found.items())
    assert not model[0].weight[~found["0"]].any()
    assert isinstance(model[0].weight, nn.Parameter)


def test_momentum_regrows_what_is_not_forgotten() -> None:
    """The hygiene is needed: without it one step of Adam moves pruned weights off zero."""
    weight = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.ones(4)
    optimizer.step()
    mask = torch.tensor([True, True, False, False])
    for forgets in (False, True):
        with torch.no_grad():
            weight.masked_fill_(~mask, 0.0)
        if forgets:
            forget(optimizer, weight, mask)
        weight.grad = torch.tensor([1.0, 1.0, 0.0, 0.0])
        optimizer.step()
        assert bool(weight[~mask].any()) is not forgets


def test_evaluation_while_decaying_is_hard_masked() -> None:
    """Trap: a model evaluated with its soft mask is not the one that is exported."""
    for name in ("mdgf_exponential", "sdgf_stepwise"):
        layer, training, x = setup(name)
        training.begin(6)
        soft, mask = layer(x), training.layers[""].mask.clone()
        with training.hard_masked():
            assert int((layer.weight != 0).sum()) == 10
            hard = layer(x)
        assert not torch.allclose(soft, hard)
        assert torch.equal(layer(x), soft)
        assert torch.equal(training.layers[""].mask, mask)


def test_a_method_without_freeze_is_masked_at_the_end() -> None:
    layer, training, _ = setup("ste")
    training.begin(39)
    training.finish()
    assert int((layer.weight != 0).sum()) == 10
    dense, training, _ = setup("dense")
    training.begin(39)
    assert training.finish() == {}
    assert int((dense.weight != 0).sum()) == 40


@pytest.mark.parametrize("step", [0, 20, 39])
@pytest.mark.parametrize("name", METHODS)
def test_what_is_judged_at_any_step_is_what_would_be_kept(name: str, step: int) -> None:
    """In the dense phase too; the method without masks alone stays dense in both."""
    layer, training, _ = setup(name)
    for earlier in range(step + 1):
        training.begin(earlier)
    with training.hard_masked():
        judged = layer.weight.detach().clone()
        assert training.layers[""].sparse.active is (name != "dense")
    masks = training.finish()
    assert torch.equal(layer.weight, judged)
    assert int((judged != 0).sum()) == (40 if name == "dense" else 10)
    assert set(masks) == (set() if name == "dense" else {""})
