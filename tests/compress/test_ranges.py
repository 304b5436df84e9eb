from __future__ import annotations

import pytest
import torch

from bitwright.foundation.errors import UsageError
from compress.quantizers import A8, W8, fake_quantize
from compress.ranges import RangeMethod, activation_params, weight_axis, weight_params
from compress.statistics import BINS, TensorStatistics


def statistics(values: torch.Tensor) -> TensorStatistics:
    low, high = float(values.min()), float(values.max())
    ends = torch.tensor([low]), torch.tensor([high])
    return TensorStatistics(low, high, *ends, values.mean().reshape(1), torch.histc(values, BINS, low, high))


def test_minmax_covers_everything():
    params = activation_params(statistics(torch.linspace(-1, 3, 5000)), A8, RangeMethod.MINMAX)
    assert params.scale.item() == pytest.approx(4 / 255)
    assert params.zero_point.item() == 64


def test_percentile_clips_the_asked_fraction_at_each_end():
    params = activation_params(statistics(torch.linspace(-1, 3, 100_000)), A8, RangeMethod.PERCENTILE, 99.0)
    low, high = -params.zero_point * params.scale, (255 - params.zero_point) * params.scale
    assert low.item() == pytest.approx(-0.96, abs=0.02)
    assert high.item() == pytest.approx(2.96, abs=0.02)


def test_percentile_100_is_minmax_and_50_is_refused():
    seen = statistics(torch.randn(10_000))
    whole = activation_params(seen, A8, RangeMethod.PERCENTILE, 100.0)
    assert whole.scale == activation_params(seen, A8, RangeMethod.MINMAX).scale
    with pytest.raises(UsageError, match="percentile"):
        activation_params(seen, A8, RangeMethod.PERCENTILE, 50.0)


@pytest.mark.parametrize(("bits", "gain"), [(4, 0.5), (8, 1.0)])
def test_mse_beats_minmax_on_heavy_tails(bits, gain):
    torch.manual_seed(0)
    form = A8.model_copy(update={"bits": bits})
    values = torch.distributions.StudentT(3.0).sample((200_000,))
    seen = statistics(values)
    errors = {
        method: (fake_quantize(values, activation_params(seen, form, method), form) - values).square().mean().item()
        for method in (RangeMethod.MINMAX, RangeMethod.MSE)
    }
    assert errors[RangeMethod.MSE] < gain * errors[RangeMethod.MINMAX]


def test_mse_clips_each_end_on_its_own():
    values = torch.cat([torch.rand(100_000) * 2 - 1, torch.tensor([40.0])])
    params = activation_params(statistics(values), A8.model_copy(update={"bits": 4}), RangeMethod.MSE)
    low, high = -params.zero_point * params.scale, (15 - params.zero_point) * params.scale
    assert low.item() == pytest.approx(-1.0, abs=0.15)
    assert high.item() < 3.0


def test_weight_minmax_golden_and_per_tensor():
    weight = torch.tensor([[1.27, -0.5], [0.1, -2.54]])
    assert weight_params(weight, W8, RangeMethod.MINMAX).scale.tolist() == pytest.approx([0.01, 0.02])
    whole = W8.model_copy(update={"granularity": "tensor"})
    assert weight_params(weight, whole, RangeMethod.MINMAX).scale.item() == pytest.approx(0.02)


def test_weight_mse_worsens_no_channel_along_its_axis():
    form = W8.model_copy(update={"bits": 3})
    weight = torch.randn(6, 10, 3, 3, generator=torch.Generator().manual_seed(0))
    for axis in (0, 1):
        others = [d for d in range(4) if d != axis]
        found = []
        for method in (RangeMethod.MINMAX, RangeMethod.MSE):
            params = weight_params(weight, form, method, axis)
            assert params.scale.shape == (weight.shape[axis],)
            found.append((fake_quantize(weight, params, form) - weight).square().sum(others))
        assert (found[1] <= found[0]).all()  # the search contains min-max
        assert found[1].sum() < 0.8 * found[0].sum()


def test_transposed_layers_have_their_outputs_on_axis_one():
    from compress.graph import capture, layer_nodes

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ConvTranspose2d(4, 2, 4, 2, 1))
    nodes = [node for _, node in layer_nodes(capture(net, torch.rand(1, 3, 12, 12)))]
    assert [weight_axis(n) for n in nodes] == [0, 1]
