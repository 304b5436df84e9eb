"""The mixture against its definition, the noise against its law, direct mode against the network it stands for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from search.quantnas import Mode, NoiseForm, NoiseKind, NoiseRange, NoiseSource, QuantSettings, Supernet
from search.quantnas.mixed_layer import Candidate, MixedLayer
from search.quantnas.operand_noise import NoiseTable, NoisyOperand, Scalar, merged_std, steps_of
from search.quantnas.projection import Projection, project
from search.quantnas.quant_conv import QuantConv, convolve
from search.quantnas.quant_settings import IDEAL_SCALE, ActQuant
from search.quantnas.quantisers import HwgqActivation, LsqActivation, LsqWeight, round_over_range
from workloads.super_resolution.models.searched import ConvSpec, Site, load_space, operation

TOKENS = ("simple_3x3", "growth1_1x1", "3x3_increase_2", "1x1_decrease_2", "skip_connect", "zero")
SPEC = ConvSpec(4, 6, (3, 3))


def _site(tokens: tuple[str, ...] = TOKENS, channels: int = 4) -> Site:
    return Site("l", "l", channels, channels, 1, tuple(operation(t, channels, channels, channels) for t in tokens))


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
    layer = MixedLayer(_site(), (4, 8), QuantSettings(mode=Mode.FLOAT))
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


def test_shared_logits_serve_every_cell() -> None:
    basic = Supernet(load_space("basic").resized(width=6), QuantSettings())
    assert len(basic.logits) == 8
    rfdn = Supernet(load_space("rfdn").resized(width=12, cells=2), QuantSettings())
    assert len(rfdn.logits) == 16
    with torch.no_grad():
        basic.logits["cells_body_0"][0] = 3.0
    alphas = basic.alphas()
    assert torch.equal(alphas["cells.0.body.0"], alphas["cells.2.body.0"])
    assert float(alphas["cells.1.body.0"][0, 0]) > 0.5


# Noise.


def test_noise_has_the_variance_of_the_formula_and_mean_zero() -> None:
    torch.manual_seed(0)
    w, bits, settings = torch.randn(64, 32, 5, 5), (2, 3), QuantSettings()
    steps = steps_of(w, bits, settings, signed=True)
    assert torch.allclose(steps, torch.stack([(w.max() - w.min()) / 3, (w.max() - w.min()) / 7]))
    q = torch.tensor([0.3, 0.7])
    for table in (None, NoiseTable(3)):
        eps = torch.randn_like(w) if table is None else table.draw(w)
        added = NoisyOperand(w, steps, eps).noisy(q, torch.ones(()), settings) - w
        expected = float(((q * steps / 2) ** 2).sum())
        assert float(added.var()) == pytest.approx(expected, rel=0.02)
        assert abs(float(added.mean())) < 4 * math.sqrt(expected / w.numel())


def test_merged_draw_has_the_law_of_separate_ones() -> None:
    torch.manual_seed(0)
    w, q = torch.randn(80_000), torch.tensor([0.5, 0.2, 0.3])
    seen = []
    for merge in (True, False):
        settings = QuantSettings(merge=merge)
        steps = steps_of(w, (2, 4, 8), settings, signed=True)
        operand = NoisyOperand(w, steps, torch.randn_like(w) if merge else None)
        seen.append((operand.noisy(q, torch.ones(()), settings) - w).sort().values)
    assert float((seen[0] - seen[1]).abs().mean() / seen[0].std()) < 0.02


def test_noise_leaves_the_gradient_of_the_float_convolution() -> None:
    """In the authors' form it is attenuated by 1 / (bits + 1) for each convolution."""
    torch.manual_seed(0)
    x, target = torch.randn(2, 4, 9, 9), torch.randn(2, 6, 9, 9)

    def gradient(settings: QuantSettings) -> tuple[Tensor, Tensor]:
        unit = QuantConv(SPEC, (4, 8), settings)
        nn.init.ones_(unit.weight)
        active = torch.relu(x).requires_grad_()
        zero = NoisyOperand(active, torch.zeros(2), torch.zeros_like(active) if settings.merged else None)
        half = torch.full((2,), 0.5)
        (unit.noisy(zero, half, Scalar(torch.ones(()), 1.0), True, None) * target).sum().backward()
        return unit.weight.grad, active.grad

    weight, operand = gradient(QuantSettings())
    expected = torch.relu(x).requires_grad_()
    ones = torch.ones(SPEC.weight_shape, requires_grad=True)
    (convolve(expected, ones, SPEC) * target).sum().backward()
    assert torch.allclose(weight, ones.grad, atol=1e-4)
    assert operand.abs().mean() == pytest.approx(float(expected.grad.abs().mean()), rel=0.05)
    attenuated, _ = gradient(QuantSettings(form=NoiseForm.AUTHORS))
    # c w + [p / (p + c)] w with p = 1 and c = 1/3 multiplies the activation by 13/12, the gradient of w by 1/3.
    assert torch.allclose(attenuated, ones.grad / 3 * 13 / 12, rtol=1e-3, atol=1e-3)


def test_gradient_of_the_mixture_is_the_product_with_the_noise() -> None:
    torch.manual_seed(0)
    x, q = torch.randn(5, 6), torch.tensor([0.4, 0.6], requires_grad=True)
    operand = NoisyOperand(x, torch.tensor([0.2, 0.1]), torch.randn_like(x))
    g = torch.randn_like(x)
    operand.noisy(q, torch.ones(()), QuantSettings()).backward(g)
    by_hand = torch.tensor([0.4, 0.6], requires_grad=True)
    (x + 0.5 * torch.sqrt(((by_hand * operand.steps) ** 2).sum()) * operand.eps).backward(g)
    assert torch.allclose(q.grad, by_hand.grad, rtol=1e-4)


def test_std_has_a_finite_gradient_where_nothing_is_quantised() -> None:
    q = torch.tensor([1.0], requires_grad=True)
    merged_std(q, torch.zeros(1), 0.5).backward()
    assert torch.isfinite(q.grad).all()


def test_authors_form_has_their_gain_and_the_recommended_one_has_none() -> None:
    settings = QuantSettings(form=NoiseForm.AUTHORS)
    x = torch.rand(4, 4)
    for p, gain in ((1 / 9, 0.58), (0.25, 0.76), (0.5, 0.93), (1.0, 1.08)):
        operand = NoisyOperand(x, torch.zeros(2), None)
        made = operand.noisy(torch.tensor([0.5, 0.5]), torch.tensor(p), settings)
        assert float((made / x).mean()) == pytest.approx(gain, abs=0.005)
        plain = NoisyOperand(x, torch.zeros(2), torch.randn(4, 4)).noisy(
            torch.tensor([0.5, 0.5]), torch.tensor(p), QuantSettings()
        )
        assert torch.equal(plain, x)


def test_scale_range_and_kind_change_the_noise_as_they_say() -> None:
    torch.manual_seed(0)
    w, one = torch.randn(100_000), torch.ones(1)

    def deviation(settings: QuantSettings) -> float:
        steps = steps_of(w, (4,), settings, signed=True)
        eps = torch.randn_like(w) if settings.merged else None
        return float((NoisyOperand(w, steps, eps).noisy(one, torch.ones(()), settings) - w).std())

    widest = deviation(QuantSettings())
    assert deviation(QuantSettings(noise_scale=IDEAL_SCALE)) == pytest.approx(widest / math.sqrt(3), rel=0.02)
    assert deviation(QuantSettings(kind=NoiseKind.UNIFORM)) == pytest.approx(widest / math.sqrt(3), rel=0.02)
    lsq = 0.5 * 2 * float(w.abs().mean()) / math.sqrt(7)
    assert deviation(QuantSettings(range=NoiseRange.LSQ_STEP)) == pytest.approx(lsq, rel=0.02)
    with pytest.raises(UsageError, match="table"):
        QuantSettings(source=NoiseSource.TABLE, kind=NoiseKind.UNIFORM)


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


def test_noise_table_is_a_function_of_its_seed_and_follows_the_layout() -> None:
    like = torch.zeros(2, 3, 5, 4)
    torch.manual_seed(1)
    first = NoiseTable(7).draw(like)
    torch.manual_seed(1)
    assert torch.equal(NoiseTable(7).draw(like), first)
    assert not torch.equal(NoiseTable(8).draw(like), first)
    last = like.contiguous(memory_format=torch.channels_last)
    assert NoiseTable(7).draw(last).is_contiguous(memory_format=torch.channels_last)


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


def test_one_hot_direct_mixture_is_the_derived_convolution_bit_for_bit() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 8)
    layer = MixedLayer(_site(("simple_3x3", "growth1_3x3")), (2, 4, 8), QuantSettings(mode=Mode.DIRECT))
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
    layer = MixedLayer(_site(("simple_3x3", "simple_1x1")), (8,), QuantSettings(mode=Mode.DIRECT))
    layer.weigh(torch.tensor([[1.0], [0.0]]))
    layer.candidates[1].units = nn.ModuleList([nn.Identity()])
    assert layer(torch.randn(1, 4, 5, 5)).shape == (1, 4, 5, 5)


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


def test_fixed_parts_keep_their_bits_and_float_mode_has_none() -> None:
    """The authors' fixed convolutions are 8 bit even in runs without quantisation."""
    noise = Supernet(load_space("rfdn").resized(width=12, cells=1), QuantSettings())
    fixed = [m for n, m in noise.named_modules() if isinstance(m, QuantConv) and ".fixed." in f".{n}"]
    assert len(fixed) == 10
    assert all(len(m.quantisers) == 1 and m.bits == (8,) for m in fixed)
    plain = Supernet(load_space("rfdn").resized(width=12, cells=1), QuantSettings(mode=Mode.FLOAT))
    assert not any(len(m.quantisers) for m in plain.modules() if isinstance(m, QuantConv))


def test_separate_mode_has_weights_of_its_own_for_each_pair() -> None:
    layer = MixedLayer(_site(("simple_3x3", "simple_1x1")), (4, 8), QuantSettings(mode=Mode.SEPARATE))
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
