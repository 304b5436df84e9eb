"""Diagnostics against hand-made gradients and masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity
from compress.sparsity.diagnostics import DiagnosticsLog, gradient_noise, measure, retained
from compress.sparsity.diagnostics_plot import plot_diagnostics
from compress.sparsity.methods import METHODS
from compress.sparsity.schedules import Phases
from compress.sparsity.training import SparseTraining

PATTERN = Sparsity(n=2, m=4)


def trained(name: str, steps: int = 1) -> tuple[SparseTraining, torch.optim.Optimizer, DiagnosticsLog]:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    training = SparseTraining(model, {"": PATTERN}, METHODS[name], Phases(40))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    log = DiagnosticsLog(training, every=2, horizon=8)
    for step in range(steps):
        training.begin(step)
        optimizer.zero_grad()
        torch.autograd.backward((model(torch.randn(16, 8)) - 1).square().mean())
        training.after_backward()
        log.watch(step)
        optimizer.step()
        log.record(step, optimizer)
        training.after_step(optimizer)
    return training, optimizer, log


def test_figures_of_a_known_gradient() -> None:
    training, optimizer, _ = trained("ste")
    layer = training.layers[""]
    with torch.no_grad():
        layer.master.copy_(torch.arange(1.0, 33.0).reshape(4, 8))
    training.begin(1)
    # Of 1, 2, 3, 4 the mask keeps 3 and 4.
    assert layer.mask[0].tolist() == [False, False, True, True] * 2
    layer.master.grad = torch.where(layer.mask, 3.0, 4.0)
    before = layer.master.detach() + torch.where(layer.mask, 0.5, -0.25)
    found = measure(layer, torch.ones_like(layer.mask), optimizer.state[layer.master]["exp_avg_sq"], before)
    v = optimizer.state[layer.master]["exp_avg_sq"].double()
    assert found.pruned_energy == pytest.approx(16 / 25)
    assert found.g_norm == pytest.approx((16 * 25) ** 0.5)
    assert found.g_max == 4.0
    assert found.g_var == pytest.approx(0.25)
    assert found.v_var == pytest.approx(float(v.square().mean() - v.mean() ** 2), rel=1e-6)
    assert found.sad == pytest.approx(0.5)
    assert (found.update_kept, found.update_pruned) == pytest.approx((0.5, 0.25))
    assert found.retained == pytest.approx(float(layer.master.detach()[layer.mask].sum()) / (32 * 33 / 2))
    assert found.retained + found.retained_gap == pytest.approx(sum(range(17, 33)) / (32 * 33 / 2))


def test_weights_that_come_back_into_the_mask_are_counted() -> None:
    training, _, _ = trained("ste")
    layer = training.layers[""]
    with torch.no_grad():
        layer.master.copy_(torch.arange(1.0, 33.0).reshape(4, 8))
    training.begin(1)
    with torch.no_grad():
        layer.master[0, 0] = 100.0
    training.begin(2)
    # 100, 2, 3, 4: channel 0 enters and channel 2 leaves.
    assert layer.mask[0, :4].tolist() == [True, False, False, True]
    found = measure(layer, layer.mask, None)
    assert (found.flip_rate, found.reentry_rate) == (2 / 32, 1 / 32)
    assert (found.update_kept, found.update_pruned) == (0.0, 0.0)


def test_updates_of_pruned_weights_stop_with_the_fixed_mask_only() -> None:
    """Adam divides the shrinking share out again: under restrict=grad, pruned weights move on until the mask stands."""
    _, _, log = trained("mdgf_linear", 40)
    by_step = {step: values.update_pruned for step, _, values in log.rows}
    assert by_step[10] > 0.2 * by_step[0]
    assert by_step[38] < 0.5 * by_step[32]


def test_retained_gap_vanishes_for_the_best_mask() -> None:
    weight = torch.tensor([[4.0, 3.0, 0.5, 0.5]])
    assert retained(weight, torch.tensor([[True, True, False, False]])) == pytest.approx((7 / 8, 0.0))
    assert retained(weight, torch.tensor([[True, False, True, False]])) == pytest.approx((4.5 / 8, 2.5 / 8))


def test_masked_gradients_spend_nothing_on_pruned_weights_and_straight_through_ones_do() -> None:
    for name, spends in (("sdgf_stepwise_hard", False), ("ste", True)):
        training, optimizer, _ = trained(name, 3)
        layer = training.layers[""]
        assert (measure(layer, layer.mask, optimizer.state[layer.master]["exp_avg_sq"]).pruned_energy > 0) is spends


def test_noise_is_told_from_scale() -> None:
    mask = torch.tensor([True, True, False, False])
    first, second = torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, 2.0, 0.0])
    kept, pruned = gradient_noise(first, second, mask)
    assert (kept.noise, kept.signal) == (2.0, 4.0)
    assert kept.nsr == pytest.approx(0.5)
    assert pruned.nsr == 0.0
    scaled, _ = gradient_noise(10 * first, 10 * second, mask)
    assert scaled.nsr == pytest.approx(kept.nsr)
    assert gradient_noise(first, -second, mask)[0].nsr > 1e20


def test_the_log_averages_every_few_steps_and_is_drawn(tmp_path: Path) -> None:
    logs = {}
    for name in ("ste", "mdgf_exponential"):
        _, _, log = trained(name, 12)
        assert [step for step, _, _ in log.rows] == [0, 2, 4, 6, 8, 10]
        logs[name] = log.rows
    assert logs["ste"][0][2].sad == 0.0
    path = tmp_path / "figure.png"
    plot_diagnostics(logs, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(UsageError, match="no diagnostics"):
        plot_diagnostics({"ste": []}, path)


def test_a_mask_that_is_taken_once_never_flips() -> None:
    _, _, log = trained("one_shot", 12)
    assert {(values.flip_rate, values.reentry_rate) for _, _, values in log.rows} == {(0.0, 0.0)}


def test_flips_count_from_the_second_mask_to_the_freeze() -> None:
    training = SparseTraining(nn.Linear(8, 4), {"": Sparsity(n=2, m=4)}, METHODS["ste_frozen"], Phases(10, 0.0, 0.5))
    layer = training.layers[""]
    found = []
    for step in range(8):
        with torch.no_grad():
            layer.master.copy_(torch.arange(1.0, 33.0).reshape(4, 8).roll(step, 1))
        training.begin(step)
        found.append(int(layer.flips))
    assert found[0] == 0
    assert all(found[1:6])
    assert found[6:] == [0, 0]
