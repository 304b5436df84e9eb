from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.quantizers import A8, W8, Granularity, QuantFormat, dequantize, fake_quantize, params_from_range, quantize

FORMS = st.builds(
    QuantFormat, bits=st.integers(2, 8), granularity=st.just(Granularity.TENSOR), symmetric=st.booleans(),
    signed=st.booleans(), reduce_range=st.booleans(),
)  # fmt: skip
ENDS = st.floats(0.01, 1000.0)


def line(low: float, high: float, count: int = 257) -> torch.Tensor:
    return torch.linspace(low, high, count)


@settings(max_examples=150, deadline=None)
@given(FORMS, ENDS, ENDS)
def test_rounding_error_is_at_most_half_a_step_inside_the_range(form, below, above):
    params = params_from_range(torch.tensor(-below), torch.tensor(above), form)
    low = (form.qmin - params.zero_point) * params.scale
    high = (form.qmax - params.zero_point) * params.scale
    x = line(float(low), float(high))
    error = (fake_quantize(x, params, form) - x).abs().max()
    assert error <= params.scale * 0.5 * (1 + 1e-4)


@settings(max_examples=150, deadline=None)
@given(FORMS, ENDS, ENDS)
def test_quantisation_is_idempotent_and_zero_is_exact(form, below, above):
    params = params_from_range(torch.tensor(-below), torch.tensor(above), form)
    x = line(-2 * below, 2 * above)
    once = fake_quantize(x, params, form)
    assert torch.equal(fake_quantize(once, params, form), once)
    assert fake_quantize(torch.zeros(3), params, form).abs().max() == 0.0
    integers = quantize(x, params, form)
    assert integers.min() >= form.qmin
    assert integers.max() <= form.qmax


@settings(max_examples=150, deadline=None)
@given(FORMS, ENDS, ENDS)
def test_the_fused_kernel_agrees_with_its_integers(form, below, above):
    params = params_from_range(torch.tensor(-below), torch.tensor(above), form)
    x = line(-1.5 * below, 1.5 * above)
    fused, exact = fake_quantize(x, params, form), dequantize(quantize(x, params, form), params)
    away_from_ties = ((x / params.scale) % 1.0 - 0.5).abs() > 1e-3
    assert torch.equal(fused[away_from_ties], exact[away_from_ties])


def test_ties_round_to_even():
    params = params_from_range(
        torch.tensor(-127.0), torch.tensor(127.0), W8.model_copy(update={"granularity": "tensor"})
    )
    assert params.scale == 1.0
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 200.0, -200.0])
    assert quantize(x, params, W8).tolist() == [0, 2, 2, 0, -2, -2, 126, 127, -127]
    assert fake_quantize(x, params, W8).tolist() == [0, 2, 2, 0, -2, -2, 126, 127, -127]


def test_asymmetric_golden_values():
    params = params_from_range(torch.tensor(-1.0), torch.tensor(3.0), A8)
    assert params.scale.item() == pytest.approx(4 / 255)
    assert params.zero_point.item() == 64
    positive = params_from_range(torch.tensor(2.0), torch.tensor(5.1), A8)
    assert positive.zero_point.item() == 0
    assert positive.scale.item() == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("bits", "symmetric", "signed", "limits"),
    [(8, True, True, (-127, 127)), (8, False, True, (-128, 127)), (8, False, False, (0, 255)), (4, True, True, (-7, 7)),
     (2, True, True, (-1, 1)), (4, False, False, (0, 15))],
)  # fmt: skip
def test_integer_limits(bits, symmetric, signed, limits):
    form = QuantFormat(bits=bits, granularity=Granularity.TENSOR, symmetric=symmetric, signed=signed)
    assert (form.qmin, form.qmax) == limits


def test_reduced_range_leaves_one_bit_unused():
    form = W8.model_copy(update={"reduce_range": True})
    assert (form.qmin, form.qmax) == (-63, 63)


def test_per_channel_scales_are_independent_and_dead_channels_stay_finite():
    weight = torch.stack([torch.linspace(-1, 1, 9), torch.linspace(-10, 10, 9), torch.zeros(9)])
    params = params_from_range(weight.amin(1), weight.amax(1), W8, axis=0)
    rounded = fake_quantize(weight, params, W8)
    assert (rounded - weight).abs().amax(1).tolist() <= [0.5 / 127 + 1e-6, 5 / 127 + 1e-5, 0.0]
    assert torch.equal(rounded, dequantize(quantize(weight, params, W8), params))
