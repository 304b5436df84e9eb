"""Quantisers' steps: where they start, how they learn, and how close to the best they come."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from compress.training.processes import Processes
from compress.training.replay import adam, set_share
from search.quantnas import Mode, QuantSettings, SearchSettings, Supernet, bitops_costs
from search.quantnas.bilevel_step import BilevelStep
from search.quantnas.quant_conv import QuantConv, convolve
from search.quantnas.quant_settings import ActQuant, NoiseRange
from search.quantnas.quantisers import HwgqActivation, LsqActivation, LsqWeight
from workloads.super_resolution.models.searched import ConvSpec, load_space

SPEC = ConvSpec(4, 6, (3, 3))


def test_lsq_starts_and_learns_by_its_formulas() -> None:
    torch.manual_seed(0)
    w = torch.randn(3, 4, 3, 3)
    quantiser = LsqWeight(w, 4)
    assert torch.allclose(quantiser.step(), 2 * w.abs().flatten(1).mean(1) / math.sqrt(7))
    step = quantiser.step().detach().view(3, 1, 1, 1)
    rounded = quantiser(w)
    assert torch.allclose(rounded, step * torch.clamp(torch.round(w / step), -8, 7), atol=1e-6)
    g = torch.randn_like(w)
    rounded.backward(g)
    ratio = w / step
    inside = (torch.round(ratio) >= -8) & (torch.round(ratio) <= 7)
    by_step = torch.where(inside, torch.round(ratio) - ratio, ratio.clamp(-8, 7))
    # The factor counts the elements that share a step: those of one channel.
    expected = (g * by_step).flatten(1).sum(1) / math.sqrt(7 * w[0].numel()) * step.flatten()
    assert torch.allclose(quantiser.log_step.grad, expected, rtol=1e-3, atol=1e-5)


def _rms(made: Tensor, x: Tensor) -> float:
    return float((made - x).detach().square().mean().sqrt())


def _least_rms(x: Tensor, bits: int) -> float:
    """Of all steps."""
    steps = [s / 2**bits for s in torch.linspace(0.3, 1.5, 241).tolist()]
    return min(_rms(s * torch.clamp(torch.round(x / s), 0, 2**bits - 1), x) for s in steps)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_measured_step_is_the_best_one(bits: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 8, 32, 32)
    quantiser = LsqActivation(bits)
    quantiser.measure(x)
    assert _rms(quantiser(x), x) < 1.05 * _least_rms(x, bits)
    weight = (torch.rand(5, 4, 5, 5) - 0.5) * torch.logspace(-3, 1, 5).view(5, 1, 1, 1)
    of_weights = LsqWeight(weight, bits)
    before = (of_weights(weight) - weight).detach().square().flatten(1).mean(1)
    of_weights.measure(weight)
    after = (of_weights(weight) - weight).detach().square().flatten(1).mean(1)
    assert bool((after < before).all())
    ideal = (weight.flatten(1).amax(1) - weight.flatten(1).amin(1)) / (2**bits - 1) / math.sqrt(12)
    assert bool((after.sqrt() < 1.3 * ideal).all())


def test_a_step_is_measured_on_all_columns_of_a_large_image() -> None:
    """2^18 values: every fourth one lies in the same columns of each row."""
    torch.manual_seed(0)
    x = torch.rand(2, 8, 128, 128)
    x[..., ::4] *= 0.1
    quantiser = LsqActivation(4)
    quantiser.measure(x)
    assert _rms(quantiser(x), x) < 1.05 * _least_rms(x, 4)


def test_an_8_bit_step_arrives_from_where_lsq_starts() -> None:
    """At the weights' rate it is still seven times worse than the best."""
    torch.manual_seed(0)
    settings = SearchSettings(quant=QuantSettings(mode=Mode.DIRECT))
    quantiser, total = LsqActivation(8), 1500
    with torch.no_grad():
        quantiser.log_step.fill_(math.log(2 * 0.5 / math.sqrt(255)))
    optimizer = adam(
        [nn.Parameter(torch.zeros(()))], settings.weight_rate, Processes(0, 1, torch.device("cpu")),
        scales=[quantiser.log_step], scale_rate=settings.scale_rate,
    )  # fmt: skip
    mix = torch.randn(8)
    for number in range(total):
        set_share(optimizer, 0.5 * (1 + math.cos(math.pi * number / total)))
        x = torch.rand(2, 8, 16, 16)
        optimizer.zero_grad()
        torch.einsum("nchw,c->nhw", quantiser(x) - x, mix).abs().mean().backward()
        optimizer.step()
    x = torch.rand(2, 8, 64, 64)
    assert _rms(quantiser(x), x) < 1.5 * _least_rms(x, 8)


def test_steps_and_weights_go_at_rates_of_their_own() -> None:
    settings = SearchSettings(quant=QuantSettings(mode=Mode.DIRECT), weight_rate=1e-3, scale_rate=0.03)
    space = load_space("basic").resized(width=6, cells=1)
    net = Supernet(space, settings.quant).train()
    batch = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)
    net.measure_steps(batch[0])
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    BilevelStep(net, bitops_costs(space), settings, Processes(0, 1, torch.device("cpu"))).weight(batch, 0, 10)
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in net.named_parameters() if "candidates" in n}
    assert max(d for n, d in moved.items() if "log_step" in n) == pytest.approx(0.03, rel=1e-2)
    assert max(d for n, d in moved.items() if "log_step" not in n) == pytest.approx(1e-3, rel=1e-2)


def test_hwgq_rounds_and_clips_as_its_table_says() -> None:
    x = torch.tensor([-1.0, 0.1, 0.2, 1.0, 3.1, 9.0], requires_grad=True)
    y = HwgqActivation(4)(x.view(1, -1)).view(-1)
    step = 0.21306
    assert torch.allclose(y, torch.tensor([0.0, 0.0, step, 5 * step, 15 * step, 15 * step]))
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    assert HwgqActivation(4).state_dict().keys() == {"fixed"}
    unit = QuantConv(SPEC, (8,), QuantSettings(mode=Mode.DIRECT, act_quant=ActQuant.HWGQ))
    assert unit.quantisers[0].limit() == pytest.approx(0.0203006 * 255)


def test_evaluation_rounds_with_the_steps_that_the_noise_imitates() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 4, 9, 9)
    q = torch.tensor([0.0, 1.0])
    unit = QuantConv(SPEC, (8, 4), QuantSettings(range=NoiseRange.LSQ_STEP))
    step, of_weight = 2 * float(x.mean()) / math.sqrt(15), 2 * float(unit.weight.detach().abs().mean()) / math.sqrt(7)
    rounded = step * torch.clamp(torch.round(x / step), 0, 15)
    weight = of_weight * torch.clamp(torch.round(unit.weight / of_weight), -8, 7)
    assert torch.allclose(unit.rounded(x, q, None), convolve(rounded, weight, SPEC), atol=1e-5)
    unit.settings = QuantSettings()
    assert not torch.allclose(unit.rounded(x, q, None), convolve(rounded, weight, SPEC), atol=1e-3)
