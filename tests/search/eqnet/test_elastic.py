"""Elastic quantisers: codes, signs, gradients, what is learned apart from what, first scales."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from compress.quantizers import Granularity
from compress.recovery.rounding import gradient_factor
from search.eqnet.clip_search import POWER, RATIOS, fit
from search.eqnet.elastic import ElasticActivation, ElasticWeight
from search.eqnet.forms import FORMS, OffsetMode, activation_grid, weight_grid
from search.eqnet.space import ALL_BITS

BOTH = (Granularity.TENSOR, Granularity.CHANNEL)


def _left_skewed(shape: tuple[int, ...]) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return 0.3 - torch.empty(shape).exponential_(1.0, generator=draw)


def _weight(mode: OffsetMode = OffsetMode.INTEGER) -> tuple[ElasticWeight, Tensor]:
    value = _left_skewed((4, 3, 3, 3))
    made = ElasticWeight(value, 0, ALL_BITS, mode)
    made.fit(value)
    return made, value


def test_forms_are_eight_and_keep_their_index() -> None:
    assert [form.index for form in FORMS] == list(range(8))
    assert len({form.name for form in FORMS}) == 8


@pytest.mark.parametrize(("bits", "granularity", "symmetric"), list(itertools.product(ALL_BITS, BOTH, (True, False))))
def test_a_weight_has_at_most_the_codes_of_its_width_and_an_exact_zero(
    bits: int, granularity: Granularity, symmetric: bool
) -> None:
    made, value = _weight()
    value[0, 0, 0, 0] = 0.0
    made.choose(bits, granularity, symmetric)
    rounded = made(value).detach()
    exported = made.quantized(value)
    assert rounded[0, 0, 0, 0] == 0.0
    assert len(exported.integers.unique()) <= 2**bits
    for channel in rounded:
        assert len(channel.unique()) <= 2**bits
    assert torch.allclose(exported.values, rounded, atol=1e-6)
    assert (exported.params.zero_point == 0).all() or not symmetric


@pytest.mark.parametrize(
    ("bits", "symmetric", "signed"), list(itertools.product(ALL_BITS, (True, False), (True, False)))
)
def test_an_activation_has_at_most_the_codes_of_its_width_and_an_exact_zero(
    bits: int, symmetric: bool, signed: bool
) -> None:
    x = _left_skewed((8, 50)) if signed else _left_skewed((8, 50)).abs()
    x[0, 0] = 0.0
    made = ElasticActivation(ALL_BITS)
    made.fit(x)
    made.choose(bits, symmetric)
    assert bool(made.signed) is signed
    rounded = made(x).detach()
    assert rounded[0, 0] == 0.0
    assert len(rounded.unique()) <= 2**bits
    assert made.grid == activation_grid(bits, symmetric, signed)
    if not signed:
        assert abs(int(made.params().zero_point)) <= 0 or not symmetric


def test_two_bit_symmetric_weights_use_four_codes_and_eight_bit_ones_those_of_runtimes() -> None:
    narrow = weight_grid(8, Granularity.CHANNEL, symmetric=True)
    assert (narrow.qmin, narrow.qmax) == (-127, 127)
    low = weight_grid(2, Granularity.CHANNEL, symmetric=True)
    assert (low.qmin, low.qmax) == (-2, 1)


@pytest.mark.parametrize("granularity", BOTH)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_offsets_may_have_either_sign(bits: int, granularity: Granularity) -> None:
    """An offset forced to be positive (trap T1) is worse than symmetric on these weights."""
    made, value = _weight()

    def error(symmetric: bool, flip: float = 1.0) -> float:
        made.choose(bits, granularity, symmetric)
        shift = made.shift()
        if shift is not None:
            made.offset[made.key].data *= flip
        found = float((made(value) - value).detach().square().mean())
        if shift is not None:
            made.offset[made.key].data *= flip
        return found

    assert error(False) <= error(True)
    made.choose(8, Granularity.TENSOR, False)
    grid_start = made.grid.qmin * made.scale()
    shift = made.shift()
    assert shift is not None
    assert float((shift + grid_start).detach()) < 0 < float(value.detach().max())
    if bits == 4:
        assert error(False, flip=-1.0) > 1.5 * error(True)


def _reference(x: Tensor, s: Tensor, beta: Tensor, qmin: int, qmax: int, factor: float) -> tuple[Tensor, Tensor]:
    """Gradients of sum(x') to scale and offset by section 3.3, with the integer zero point in place of -beta / s."""
    z = (-beta / s).round().clamp(qmin, qmax)
    v = x / s + z
    inside = ((x / s).round() + z >= qmin) & ((x / s).round() + z <= qmax)
    low, high = (~inside) & (v < qmin), (~inside) & (v > qmax)
    rest = -beta / s - z
    to_s = torch.where(inside, v.round() - v, torch.zeros(())) + low * (qmin + rest) + high * (qmax + rest)
    return to_s.sum() * factor, (low | high).float().sum() * factor


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_are_those_of_learned_steps(symmetric: bool) -> None:
    x = _left_skewed((1, 400)).requires_grad_()
    made = ElasticActivation((3,))
    made.fit(x)
    made.choose(3, symmetric)
    made.log_scale[made.key].data -= 0.3
    torch.autograd.backward(made(x).sum())
    scale, shift = made.scale().detach(), made.shift()
    beta = torch.zeros(1) if shift is None else shift.detach()
    factor = gradient_factor(400, made.grid.qmax)
    to_s, to_beta = _reference(x.detach(), scale, beta, made.grid.qmin, made.grid.qmax, factor)
    found = made.log_scale[made.key].grad
    assert found is not None
    assert torch.allclose(found / scale, to_s, rtol=1e-4)
    v = x.detach() / scale + (-beta / scale).round().clamp(made.grid.qmin, made.grid.qmax)
    inside = (v.round() >= made.grid.qmin) & (v.round() <= made.grid.qmax)
    assert x.grad is not None
    assert torch.equal(x.grad, inside.float())
    assert 0 < int(inside.sum()) < 400
    if not symmetric:
        moved = made.offset[made.key].grad
        assert moved is not None
        assert torch.allclose(moved / made.get_buffer(f"unit_{made.key}"), to_beta, rtol=1e-4)


def test_gradients_of_scales_count_one_sample_and_one_channel() -> None:
    """N of LSQ's factor (trap T12): the values of one sample of an activation, of one channel of a weight."""
    made = ElasticActivation((4,))
    x = _left_skewed((1, 100))
    made.fit(x)
    made.choose(4, symmetric=True)
    made.log_scale[made.key].data -= 0.5
    torch.autograd.backward(made(x).sum())
    one = made.log_scale[made.key].grad
    assert one is not None
    kept = one.clone()
    made.zero_grad()
    torch.autograd.backward(made(x.repeat(5, 1)).sum())
    five = made.log_scale[made.key].grad
    assert five is not None
    assert torch.allclose(five, 5 * kept, rtol=1e-4)
    assert gradient_factor(100, 7) == pytest.approx((100 * 7) ** -0.5)


def test_float_offsets_pass_no_gradient_inside() -> None:
    x = torch.linspace(-0.2, 0.7, 100)[None]
    made = ElasticActivation((4,), OffsetMode.FLOAT)
    made.fit(x)
    made.choose(4, symmetric=False)
    made.log_scale[made.key].data += 1.0
    torch.autograd.backward(made(x).sum())
    grad = made.offset[made.key].grad
    assert grad is not None
    assert float(grad.abs()) < 1e-5
    shift = made.shift()
    assert shift is not None
    steps = (made(x).detach() - shift.detach()) / made.scale().detach()
    assert torch.allclose(steps, steps.round(), atol=1e-3)


def test_what_is_not_sampled_has_no_gradient_and_never_moves() -> None:
    made, value = _weight()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.1)
    made.choose(2, Granularity.CHANNEL, symmetric=False)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(made(value).square().sum())
        optimizer.step()
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    made.choose(8, Granularity.TENSOR, symmetric=True)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(made(value).square().sum())
    optimizer.step()
    moved = [n for n, p in made.named_parameters() if not torch.equal(p, before[n])]
    assert moved == ["log_scale.8_tensor_sym"]
    assert [n for n, p in made.named_parameters() if p.grad is not None] == moved


def test_widths_come_back_bit_by_bit_and_states_with_their_sign_flag() -> None:
    x = _left_skewed((2, 60)).abs()
    made = ElasticActivation(ALL_BITS)
    made.fit(x)
    made.choose(8, symmetric=True)
    first = made(x)
    made.choose(2, symmetric=False)
    assert not torch.equal(made(x), first)
    made.choose(8, symmetric=True)
    assert torch.equal(made(x), first)
    other = ElasticActivation(ALL_BITS)
    assert other.is_signed
    other.load_state_dict(made.state_dict())
    other.choose(8, symmetric=True)
    assert not other.is_signed
    assert torch.equal(other(x), first)
    with pytest.raises(UsageError, match="no 9-bit"):
        made.choose(9, symmetric=True)


@pytest.mark.parametrize("granularity", BOTH)
def test_first_scales_are_the_best_of_eighty_ratios_in_every_form(granularity: Granularity) -> None:
    """Five ratios for per-channel symmetric weights (trap T10) would leave 2.5 times the error at 2 bits."""
    rows = torch.randn(3, 4000, generator=torch.Generator().manual_seed(1))
    rows = rows if granularity is Granularity.CHANNEL else rows.reshape(1, -1)
    grid = weight_grid(2, granularity, symmetric=True)
    scale, offset = fit(rows, grid, symmetric=True, mode=OffsetMode.INTEGER)
    assert torch.equal(offset, torch.zeros(len(rows)))
    for row, found in zip(rows, scale, strict=True):
        tried = [2 * float(r) * float(row.abs().max()) / 3 for r in RATIOS]
        errors = [float(((row / s).round().clamp(-2, 1) * s - row).abs().pow(POWER).mean()) for s in tried]
        assert float(found) == pytest.approx(tried[errors.index(min(errors))], rel=1e-5)
        relative = ((row / found).round().clamp(-2, 1) * found - row).square().mean() / row.square().mean()
        assert 0.10 < float(relative) < 0.20


@pytest.mark.parametrize(
    ("bits", "float_error", "integer_error"), [(2, 0.121, 0.146), (3, 0.038, 0.040), (4, 0.0112, 0.0115)]
)
def test_the_price_of_an_exact_zero_is_that_of_the_specification(
    bits: int, float_error: float, integer_error: float
) -> None:
    row = torch.randn(1, 60_000, generator=torch.Generator().manual_seed(3))
    found = {}
    for mode in OffsetMode:
        made = ElasticWeight(row, 0, (bits,), mode)
        made.fit(row)
        made.choose(bits, Granularity.TENSOR, symmetric=False)
        found[mode] = float((made(row) - row).square().mean() / row.square().mean())
    assert found[OffsetMode.FLOAT] == pytest.approx(float_error, rel=0.12)
    assert found[OffsetMode.INTEGER] == pytest.approx(integer_error, rel=0.12)
    assert found[OffsetMode.FLOAT] <= found[OffsetMode.INTEGER]
