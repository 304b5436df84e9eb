"""The noise that stands for rounding: its law, its gradients, its forms and its table."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from search.quantnas import NoiseForm, NoiseKind, NoiseRange, NoiseSource, QuantSettings
from search.quantnas.operand_noise import NoiseTable, NoisyOperand, Scalar, merged_std, steps_of
from search.quantnas.quant_conv import QuantConv, convolve
from search.quantnas.quant_settings import IDEAL_SCALE
from workloads.super_resolution.models.searched import ConvSpec

SPEC = ConvSpec(4, 6, (3, 3))


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


def test_noise_table_is_a_function_of_its_seed_and_follows_the_layout() -> None:
    like = torch.zeros(2, 3, 5, 4)
    torch.manual_seed(1)
    first = NoiseTable(7).draw(like)
    torch.manual_seed(1)
    assert torch.equal(NoiseTable(7).draw(like), first)
    assert not torch.equal(NoiseTable(8).draw(like), first)
    last = like.contiguous(memory_format=torch.channels_last)
    assert NoiseTable(7).draw(last).is_contiguous(memory_format=torch.channels_last)
