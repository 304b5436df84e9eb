"""StepAdam: AdamW, with steps that can be restricted and a second moment that can stand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.foundation.errors import UsageError
from compress.sparsity.methods import METHODS
from compress.sparsity.schedules import Phases
from compress.sparsity.step_adam import StepAdam
from compress.sparsity.training import Restrict, SparseTraining
from tests.compress.sparsity.method_helpers import PATTERN


def test_step_adam_is_adamw() -> None:
    torch.manual_seed(0)
    start = torch.randn(7, 3)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    a = StepAdam([ours], lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    b = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    for _ in range(20):
        gradient = torch.randn(7, 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_adam_cancels_a_restricted_gradient_and_restricting_updates_does_not() -> None:
    """Trap: a gradient scaled by a constant beta gives Adam's full step; restrict=update scales the step itself."""
    moved = {}
    for restrict in Restrict:
        torch.manual_seed(0)
        layer = nn.Linear(8, 5)
        training = SparseTraining(layer, {"": PATTERN}, METHODS["mdgf_exponential"], Phases(10**6), restrict=restrict)
        optimizer = StepAdam(layer.parameters(), lr=1e-4, weight_decay=0.0)
        step = Phases(10**6).end // 2
        sparse = training.layers[""]
        begun = sparse.master.detach().clone()
        x = torch.randn(64, 8)
        for i in range(5):
            training.begin(step + i, optimizer)
            optimizer.zero_grad()
            torch.autograd.backward(layer(x).square().sum())
            optimizer.step()
        change = (sparse.master.detach() - begun).abs()
        moved[restrict] = float(change[~sparse.mask].mean() / change[sparse.mask].mean())
    beta = 0.0498
    assert moved[Restrict.GRAD] > 0.5
    assert moved[Restrict.UPDATE] == pytest.approx(beta, rel=0.5)
    with pytest.raises(UsageError, match="StepAdam"):
        training.begin(step, torch.optim.AdamW(layer.parameters()))


def test_second_moment_stands_after_it_is_frozen() -> None:
    weight = nn.Parameter(torch.zeros(5))
    optimizer = StepAdam([weight], lr=0.01, betas=(0.9, 0.9), freeze_v_at=12)
    for step in range(20):
        weight.grad = torch.full((5,), 1.0 if step < 12 else 100.0)
        optimizer.step()
    assert optimizer.state[weight]["exp_avg_sq"].tolist() == pytest.approx([1 - 0.9**12] * 5)
    auto = StepAdam([weight], lr=0.01, betas=(0.9, 0.9), freeze_v_at="auto", threshold=0.01)
    frozen_at = None
    for step in range(200):
        weight.grad = torch.ones(5)
        auto.step()
        if auto.param_groups[0]["frozen"] and frozen_at is None:
            frozen_at = step + 1
    # |v| = 1 - 0.9^t: between looks at 10 i and 10 (i + 1) it changes by less than 1 % from t = 40 to 50 on.
    assert frozen_at == 50
    again = StepAdam([weight], freeze_v_at="auto")
    again.load_state_dict(auto.state_dict())
    assert again.param_groups[0]["frozen"]
