"""Rounding with learned scales: the fused kernel's values to the bit, and LSQ's gradients."""

from __future__ import annotations

import pytest
import torch
from skimage import data as pictures

from compress.quantizers import A8, W8, fake_quantize, params_from_range
from compress.recovery.learned import LearnedActivation
from compress.recovery.rounding import _RoundChannels, round_weight


@pytest.mark.parametrize("zero", [0, 7, 120, 255])
def test_rounding_is_that_of_the_fused_kernel_ties_included(zero: int) -> None:
    params = params_from_range(torch.tensor(-0.03 * zero), torch.tensor(0.03 * (255 - zero)), A8)
    x = torch.randn(4, 5, 19, 21, generator=torch.Generator().manual_seed(0)) * 3
    x[0] = (torch.randint(-300, 300, x[0].shape) + 0.5) * params.scale
    learned = LearnedActivation(params, A8)
    assert torch.equal(learned(x), fake_quantize(x, params, A8))


def test_gradients_are_those_of_torchs_learnable_kernel() -> None:
    params = params_from_range(torch.tensor(-0.9), torch.tensor(1.1), A8)
    learned = LearnedActivation(params, A8)
    x = torch.randn(3, 4, 9, 11, generator=torch.Generator().manual_seed(0)).requires_grad_()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    learned(x).backward(upstream)
    factor = (x[0].numel() * A8.qmax) ** -0.5
    wanted = torch.ops.aten._fake_quantize_learnable_per_tensor_affine_backward(
        upstream, x.detach(), params.scale.reshape(1), params.zero_point.reshape(1).float(), 0, 255, factor
    )
    torch.testing.assert_close(x.grad, wanted[0])
    torch.testing.assert_close(learned.log_factor.grad, wanted[1] * params.scale, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(learned.zero_point.grad, wanted[2], rtol=1e-4, atol=1e-7)


def test_scale_of_a_picture_that_is_on_the_grid_gets_exactly_no_gradient() -> None:
    params = params_from_range(torch.tensor(0.0), torch.tensor(255.0), A8)
    learned = LearnedActivation(params, A8)
    x = torch.from_numpy(pictures.astronaut()).permute(2, 0, 1)[None].float().requires_grad_()
    learned(x).backward(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert learned.log_factor.grad is not None
    assert learned.log_factor.grad.item() == 0.0


@pytest.mark.parametrize("axis", [0, 1, None])
def test_the_form_for_gpus_rounds_weights_as_the_fused_kernel_does(axis: int | None) -> None:
    made = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 6, 3, 3, generator=made)
    upstream = torch.randn(weight.shape, generator=made)
    count = 1 if axis is None else 6
    found = []
    for fused in (True, False):
        leaf = weight.clone().requires_grad_()
        scale = torch.linspace(0.01, 0.03, count).requires_grad_()
        zero = torch.zeros(count)
        if fused:
            y = round_weight(leaf, scale, zero, axis, W8.qmin, W8.qmax)
        else:
            factor = (weight.numel() // count * W8.qmax) ** -0.5
            y = _RoundChannels.apply(leaf, scale, zero, axis, W8.qmin, W8.qmax, factor)
        y.backward(upstream)
        found.append((y.detach(), leaf.grad, scale.grad))
    assert (found[0][1] == 0).any()
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs)
