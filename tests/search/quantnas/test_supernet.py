"""The mixture against its definition, and direct mode against the network it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from compress.training.processes import Processes
from hw_profiles import load_profile
from search.quantnas import (
    Mode,
    NoiseSource,
    QuantSettings,
    SearchSettings,
    Supernet,
    Where,
    bitops_costs,
    derive,
    latency_costs,
    network_bitops,
)
from search.quantnas.bilevel_step import BilevelStep
from search.quantnas.mixed_layer import Candidate, MixedLayer
from search.quantnas.projection import Projection, probabilities, project
from search.quantnas.quant_conv import QuantConv, convolve
from search.quantnas.quantisers import LsqActivation, round_over_range
from workloads.super_resolution.models.searched import Choice, ConvSpec, Genotype, Site, load_space, operation

TOKENS = ("simple_3x3", "growth1_1x1", "3x3_increase_2", "1x1_decrease_2", "skip_connect", "zero")
ALONE = Processes(0, 1, torch.device("cpu"))
SPEC = ConvSpec(4, 6, (3, 3))


def _site(bits: tuple[int, ...], tokens: tuple[str, ...] = TOKENS, channels: int = 4) -> Site:
    made = tuple(operation(t, channels, channels, channels) for t in tokens)
    return Site("l", "l", channels, channels, 1, made, bits)


def _plain(candidate: Candidate, x: Tensor) -> Tensor:
    """An operation written out in float."""
    chosen = candidate.chosen
    if chosen.is_zero:
        return torch.zeros_like(x)
    x = x.repeat(1, chosen.tile_before, 1, 1)
    for unit in candidate.units:
        x = convolve(torch.relu(x), unit.weight, unit.spec)
    return x.repeat(1, chosen.tile_after, 1, 1)


def test_float_mixture_is_the_weighted_sum_of_its_operations() -> None:
    torch.manual_seed(0)
    layer = MixedLayer(_site((4, 8)), QuantSettings(mode=Mode.FLOAT))
    alpha = torch.softmax(torch.randn(12), 0).view(6, 2).requires_grad_()
    layer.weigh(alpha)
    x = torch.randn(2, 4, 6, 7)
    expected = sum(p * _plain(c, x) for p, c in zip(alpha.sum(1), layer.candidates, strict=True))
    made = layer(x)
    assert torch.allclose(made, expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(made.square().sum(), alpha, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected.square().sum(), alpha)
    assert torch.allclose(gradient, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", [Mode.NOISE, Mode.DIRECT, Mode.SEPARATE])
def test_gradients_of_every_mode_reach_weights_and_logits_alone(mode: Mode) -> None:
    torch.manual_seed(0)
    net = Supernet(load_space("basic").resized(width=6, cells=1), QuantSettings(mode=mode), adq=True)
    x = torch.rand(2, 3, 8, 8)
    net.measure_steps(x)
    net.learn(weights=True)
    net(x).square().mean().backward()
    assert all(p.grad is None for p in net.architecture_parameters())
    searched = [p for n, p in net.named_parameters() if "candidates" in n]
    assert sum(p.grad is not None and bool(p.grad.any()) for p in searched) > 0.9 * len(searched)
    net.zero_grad()
    net.learn(weights=False)
    net(x).square().mean().backward()
    assert all(p.grad is None for p in net.weight_parameters())
    assert all(bool(p.grad.any()) for p in net.architecture_parameters())


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_cost_entropy_and_probabilities_are_those_of_the_mixture_that_runs(temperature: float) -> None:
    space = load_space("basic").resized(width=6, cells=1)
    net = Supernet(space, QuantSettings(mode=Mode.FLOAT))
    torch.manual_seed(0)
    with torch.no_grad():
        for logits in net.logits.values():
            logits.normal_()
    net.temperature = temperature
    x = torch.rand(1, 3, 8, 8)
    ran = net(x)
    assert torch.allclose(net.weighted(x, net.alphas()), ran)
    steps = BilevelStep(net, bitops_costs(space), SearchSettings(), ALONE)
    cost, terms = steps.mixture()
    alphas = [torch.softmax(p.detach() / temperature, 0) for p in net.logits.values()]
    assert terms == pytest.approx(sum(float(-(a * a.log()).sum()) for a in alphas), rel=1e-5)
    named = {n: a.view(len(s.operations), -1) for (n, a), s in zip(
        ((s.name, torch.softmax(net.logits_of(s).detach() / temperature, 0)) for s in net.sites), net.sites, strict=True
    )}  # fmt: skip
    assert cost == pytest.approx(float(bitops_costs(space).expected(named)))
    if temperature != 1:
        net.temperature = 1.0
        assert not torch.allclose(net(x), ran)


def test_gumbel_samples_cool_down_and_have_the_probabilities_of_their_logits() -> None:
    sampled = SearchSettings(epochs=5, warm_up=1, projection=Projection.GUMBEL)
    assert [sampled.temperature_at(epoch) for epoch in range(5)] == pytest.approx([10, 10, 6.7, 3.4, 0.1])
    assert SearchSettings().temperatures == SearchSettings(projection=Projection.MASKED).temperatures == (1.0, 1.0)
    assert SearchSettings(projection=Projection.GUMBEL_HARD, temperature=(2.0, 1.0)).temperatures == (2.0, 1.0)
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -1.0])
    drawn = torch.stack([project(logits, Projection.GUMBEL_HARD, 10.0, True) for _ in range(4000)]).mean(0)
    assert torch.allclose(drawn, probabilities(logits, Projection.GUMBEL_HARD, 10.0), atol=0.03)
    assert torch.equal(project(logits, Projection.GUMBEL, 10.0, False), torch.softmax(logits, 0))


def test_shared_logits_serve_every_cell() -> None:
    basic = Supernet(load_space("basic").resized(width=6), QuantSettings())
    assert len(basic.logits) == 8
    rfdn = Supernet(load_space("rfdn").resized(width=12, cells=2), QuantSettings())
    assert len(rfdn.logits) == 16
    with torch.no_grad():
        basic.logits["cells_body_0"][0] = 3.0
    alphas = basic.alphas()
    assert torch.equal(alphas["cells.0.body.0"], alphas["cells.2.body.0"])
    assert float(alphas["cells.1.body.0"].detach()[0, 0]) > 0.5


# Noise.


def test_evaluation_rounds_instead_of_adding_noise() -> None:
    """A supernet with noise in evaluation has a random validation loss."""
    torch.manual_seed(0)
    net = Supernet(load_space("basic").resized(width=6, cells=1, bits=(2, 8)), QuantSettings())
    x = torch.rand(1, 3, 9, 9)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    levels = round_over_range(torch.relu(torch.randn(1000)), 2).unique()
    assert len(levels) == 4


@pytest.mark.parametrize("source", list(NoiseSource))
def test_recomputed_layers_meet_the_same_noise(source: NoiseSource) -> None:
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        settings = QuantSettings(source=source)
        net = Supernet(load_space("basic").resized(width=6, cells=1), settings, recompute=recompute)
        torch.manual_seed(1)
        net(torch.rand(2, 3, 8, 8)).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


# Direct mode.


def test_direct_steps_are_registered_trained_and_saved() -> None:
    """In the authors' code they sit in a plain list: neither optimised nor saved."""
    torch.manual_seed(0)
    net = Supernet(load_space("basic").resized(width=6, cells=1), QuantSettings(mode=Mode.DIRECT))
    steps = [n for n, _ in net.named_parameters() if "log_step" in n and "candidates" in n]
    convs = sum(isinstance(m, QuantConv) for n, m in net.named_modules() if "candidates" in n)
    assert len(steps) == convs * 2 * 2
    assert set(steps) <= set(net.state_dict())
    optimizer = torch.optim.Adam(net.weight_parameters(), lr=0.1)
    x = torch.rand(2, 3, 8, 8)
    net.measure_steps(x)
    before = {n: p.detach().clone() for n, p in net.named_parameters() if n in steps}
    net(x).square().mean().backward()
    optimizer.step()
    moved = [n for n, p in net.named_parameters() if n in steps and not torch.equal(p, before[n])]
    assert len(moved) > 0.9 * len(steps)


@pytest.mark.parametrize("projection", [Projection.GUMBEL_HARD, Projection.MASKED])
def test_steps_of_choices_that_a_projection_leaves_out_are_measured_too(projection: Projection) -> None:
    measured = []
    for kind in (Projection.SOFTMAX, projection):
        torch.manual_seed(0)
        net = Supernet(load_space("basic").resized(width=6, cells=1), QuantSettings(mode=Mode.DIRECT))
        net.projection = kind
        before = {n: p.detach().clone() for n, p in net.named_parameters() if "log_step" in n}
        net.measure_steps(torch.rand(2, 3, 8, 8))
        measured.append({n: p.detach() for n, p in net.named_parameters() if n in before})
        assert not [n for n in before if torch.equal(before[n], measured[-1][n])]
    assert all(torch.equal(step, measured[1][n]) for n, step in measured[0].items())


def test_one_hot_direct_mixture_is_the_derived_convolution_bit_for_bit() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 8)
    layer = MixedLayer(_site((2, 4, 8), ("simple_3x3", "growth1_3x3")), QuantSettings(mode=Mode.DIRECT))
    alpha = torch.zeros(2, 3)
    alpha[1, 1] = 1.0
    layer.weigh(alpha)
    for part in layer.modules():
        if isinstance(part, LsqActivation):
            part.measure(x)
    value = x
    for unit in layer.candidates[1].units:
        derived = QuantConv(unit.spec, (4,), QuantSettings(mode=Mode.DIRECT))
        derived.load_state_dict({"weight": unit.weight} | {
            f"quantisers.0.{n}": v for n, v in unit.quantisers[1].state_dict().items()
        })  # fmt: skip
        value = derived(value)
    assert torch.equal(layer(x), value)


def test_a_choice_of_probability_zero_is_not_run() -> None:
    layer = MixedLayer(_site((8,), ("simple_3x3", "simple_1x1")), QuantSettings(mode=Mode.DIRECT))
    layer.weigh(torch.tensor([[1.0], [0.0]]))
    layer.candidates[1].units = nn.ModuleList([nn.Identity()])
    assert layer(torch.randn(1, 4, 5, 5)).shape == (1, 4, 5, 5)


def test_fixed_parts_keep_their_bits_and_float_mode_has_none() -> None:
    """The authors' fixed convolutions are 8 bit even in runs without quantisation."""
    noise = Supernet(load_space("rfdn").resized(width=12, cells=1), QuantSettings())
    fixed = [m for n, m in noise.named_modules() if isinstance(m, QuantConv) and ".fixed." in f".{n}"]
    assert len(fixed) == 10
    assert all(len(m.quantisers) == 1 and m.bits == (8,) for m in fixed)
    plain = Supernet(load_space("rfdn").resized(width=12, cells=1), QuantSettings(mode=Mode.FLOAT))
    assert not any(len(m.quantisers) for m in plain.modules() if isinstance(m, QuantConv))


def test_separate_mode_has_weights_of_its_own_for_each_pair() -> None:
    layer = MixedLayer(_site((4, 8), ("simple_3x3", "simple_1x1")), QuantSettings(mode=Mode.SEPARATE))
    assert len(layer.candidates) == 4
    x = torch.randn(1, 4, 5, 5)
    layer.weigh(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert torch.equal(layer(x), layer.candidates[1].units[0](x))


def test_normalisation_is_learned_from_the_weights_batches_only() -> None:
    net = Supernet(load_space("basic").resized(width=6, cells=1), QuantSettings(), adq=True)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    net.learn(weights=False)
    net(torch.rand(2, 3, 8, 8))
    assert all(int(m.num_batches_tracked) == 0 for m in norms)
    net.learn(weights=True)
    net(torch.rand(2, 3, 8, 8))
    assert len(norms) == 3
    assert all(int(m.num_batches_tracked) == 1 for m in norms)


def test_projections() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    cold = project(logits, Projection.SOFTMAX, 0.1, True)
    assert float(cold[0]) > float(torch.softmax(logits, 0)[0])
    hard = project(logits, Projection.GUMBEL_HARD, 1.0, True)
    assert sorted(hard.tolist()) == [0.0, 0.0, 0.0, 1.0]
    masked = [project(logits, Projection.MASKED, 1.0, True) for _ in range(200)]
    assert all(float(m.sum()) == pytest.approx(1) for m in masked)
    kept = sum(int((m > 0).sum()) for m in masked) / 200
    assert 1.7 < kept < 2.4
    assert torch.equal(project(logits, Projection.MASKED, 1.0, False), torch.softmax(logits, 0))


@pytest.mark.parametrize("mode", [Mode.NOISE, Mode.DIRECT, Mode.SEPARATE])
def test_layers_with_widths_of_their_own_are_mixed_priced_and_derived_within_them(mode: Mode) -> None:
    space = load_space("rfdn").resized(width=12, cells=1).with_ends(8)
    net = Supernet(space, QuantSettings(mode=mode), adq=True)
    assert {n: len(p) for n, p in net.logits.items() if n in ("upsample_0", "tail_0")} == {"upsample_0": 9, "tail_0": 6}
    with torch.no_grad():
        for logits in net.logits.values():
            # 4 bits everywhere that has them, and the last operation.
            logits.copy_(torch.arange(len(logits)).float())
            if len(logits) == 18:
                logits[1::2] -= 9
    x = torch.rand(1, 3, 16, 16)
    net.measure_steps(x)
    assert net(x).shape == (1, 3, 64, 64)
    genotype = derive(space, {s.name: net.logits_of(s) for s in net.sites})
    assert genotype.layers["tail.0"] == ("growth1_5x5", 8)
    assert genotype.layers["upsample.0"] == ("simple_5x5_grouped_2", 8)
    assert {c.bits for n, c in genotype.layers.items() if n.startswith("cells")} == {4}
    table = bitops_costs(space)
    assert table.of(genotype) + table.fixed == network_bitops(genotype, 32, 32)
    narrow = Genotype.of(space, genotype.layers | {"tail.0": Choice("growth1_5x5", 4)}, adq=False)
    with pytest.raises(UsageError, match=r"layer tail\.0 has 4 bits"):
        table.of(narrow)
    timed = latency_costs(space.resized(bits=(8, 32)), Where(load_profile("x86-avx512-vnni-bf16"), "openvino")).table
    shapes = {(e.producer, e.consumer): tuple(e.costs.shape) for e in timed.boundaries}
    assert shapes["upsample.0", "tail.0"] == (1, 1)
    assert shapes["cells.0.body.0", "cells.0.skip.1"] == (2, 2)
