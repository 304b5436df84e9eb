from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bitwright.foundation.errors import UsageError
from compress.graph import capture, layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.preparation import prepare
from compress.quantizers import A8, W8, fake_quantize
from compress.ranges import RangeMethod, activation_params, set_ranges, weight_axis, weight_params
from compress.statistics import BINS, TensorStatistics, collect
from workloads.loading import load_checkpoint


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


class Branches(torch.nn.Module):
    """A tensor before a PReLU, one before a leaky ReLU, and one that something else reads as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (torch.nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.slopes = torch.nn.PReLU(8)
        with torch.no_grad():
            self.slopes.weight.copy_(torch.tensor([0.0, 0.05, 0.1, -0.1, 0.02, 0.0, 0.1, 0.0]))
            for layer in (self.first, self.second):
                layer.weight *= 4.0
                layer.bias -= 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.leaky_relu(self.second(self.slopes(self.first(x))), 0.05)
        z = self.third(y)
        return z + torch.nn.functional.leaky_relu(z, 0.05)


def test_ends_before_a_leaky_activation_are_those_with_the_least_error_behind_it():
    module = Branches().eval()
    inputs = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    graph = capture(module, inputs[:1])
    names = [node.name for _, node in layer_nodes(graph)]
    found = collect(graph, inputs, set(names))
    behind = [module.slopes, lambda v: torch.nn.functional.leaky_relu(v, 0.05)]
    with torch.no_grad():
        first = module.first(inputs)
        values = [first, module.second(module.slopes(first))]
    for name, value, activation in zip(names[:2], values, behind, strict=True):
        chosen = activation_params(found[name], A8, RangeMethod.MINMAX)
        whole = activation_params(replace(found[name], importance=None), A8, RangeMethod.MINMAX)
        with torch.no_grad():
            exact = activation(value)
            errors = [(activation(fake_quantize(value, p, A8)) - exact).square().mean() for p in (chosen, whole)]
        assert errors[0] < 0.9 * errors[1]
        assert found[name].importance.sum() < found[name].histogram.sum()
    assert found[names[2]].importance is None


def test_importance_counts_each_channel_by_its_own_slope():
    module = Branches().eval()
    inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    graph = capture(module, inputs[:1])
    name = next(node.name for _, node in layer_nodes(graph))
    found = collect(graph, inputs, {name})[name]
    with torch.no_grad():
        value = module.first(inputs)
    weights = torch.where(value < 0, module.slopes.weight.detach().square().reshape(1, -1, 1, 1), torch.ones(()))
    assert float(found.importance.sum()) == pytest.approx(float(weights.sum()), rel=1e-5)
    assert float(found.histogram.sum()) == value.numel()


def test_fsrcnn_keeps_its_quality_with_all_tensors_on_integers(data):
    # Between minimum and maximum, most of the integers before its parametric ReLUs are of values that become small.
    loaded = load_checkpoint(data / "checkpoints" / "fsrcnn_x4.pth")
    workload = loaded.workload
    graph = prepare(capture(loaded.module, workload.example_input(64, 64)))
    layers = {name: LayerPlan(weight=W8, activation=A8) for name, _ in layer_nodes(graph)}
    plan = Plan(architecture="a", device="d", runtime="r", float_precision="fp32", placement=Placement.EVERYTHING,
                layers=layers)  # fmt: skip
    inputs = workload.calibration(data / "sr" / "train", 32, 64)
    seen = collect(graph, inputs, {site.tensor.name for site in place(graph, plan)})
    samples = workload.samples(data / "sr" / "test" / "Set5")
    plain = {name: replace(one, importance=None) for name, one in seen.items()}
    found, before = (workload.evaluate(set_ranges(graph, plan, s).simulate(), samples).mean for s in (seen, plain))
    assert found > before + 0.15
