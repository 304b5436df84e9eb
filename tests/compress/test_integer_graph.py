"""integer_graph() computes on integers what simulate() computes on their real values."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, fx, nn

from compress.compressed import CompressedModel, QuantizedWeight
from compress.graph import capture, layer_nodes
from compress.integer_graph import EXACT_SUM, integer_graph, largest_sums
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import Granularity, QuantFormat, QuantParams
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import collect


class Mixed(nn.Module):
    """A convolution called twice, one in groups without bias, a transposed one, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.head(x))
        return self.fc(self.up(self.body(nn.functional.leaky_relu(self.body(y), 0.1)) + y).mean((2, 3)))


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    coarse = torch.rand(4, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def graph(pictures: Tensor) -> fx.GraphModule:
    torch.manual_seed(4)
    return capture(Mixed(), pictures[:1])


def compress(graph: fx.GraphModule, pictures: Tensor, weight: QuantFormat, activation: QuantFormat,
             placement: Placement = Placement.INPUTS) -> CompressedModel:  # fmt: skip
    layers = {name: LayerPlan(weight=weight, activation=activation) for name, _ in layer_nodes(graph)}
    plan = Plan(architecture="a", device="d", runtime="r", float_precision="fp32", placement=placement, layers=layers)
    statistics = collect(graph, pictures, {site.tensor.name for site in place(graph, plan)})
    return set_ranges(graph, plan, statistics, RangeMethod.MINMAX, RangeMethod.MINMAX)


def form(bits: int, granularity: Granularity, symmetric: bool, signed: bool) -> QuantFormat:
    return QuantFormat(bits=bits, granularity=granularity, symmetric=symmetric, signed=signed)


def with_powers_of_two(model: CompressedModel) -> CompressedModel:
    """The same integers with every scale rounded to a power of two, so that no product or sum rounds."""

    def rounded(params: QuantParams) -> QuantParams:
        return dataclasses.replace(params, scale=torch.exp2(torch.round(torch.log2(params.scale))))

    weights = {n: QuantizedWeight(w.integers, rounded(w.params), w.form) for n, w in model.weights.items()}
    return CompressedModel(model.graph, model.plan, weights, {n: rounded(p) for n, p in model.activations.items()})


FORMS = {
    "s8": (form(8, Granularity.CHANNEL, True, True), form(8, Granularity.TENSOR, True, True)),
    "s4": (form(4, Granularity.CHANNEL, True, True), form(4, Granularity.TENSOR, True, True)),
    "s2": (form(2, Granularity.TENSOR, True, True), form(2, Granularity.TENSOR, False, True)),
    "u8": (form(8, Granularity.TENSOR, False, False), form(8, Granularity.TENSOR, False, False)),
    "w3a5": (form(3, Granularity.CHANNEL, False, True), form(5, Granularity.TENSOR, True, False)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("placement", list(Placement))
def test_powers_of_two_as_scales_give_the_very_bits_of_the_simulation(
    graph: fx.GraphModule, pictures: Tensor, name: str, placement: Placement
) -> None:
    model = with_powers_of_two(compress(graph, pictures, *FORMS[name], placement))
    with torch.inference_mode():
        real, simulated, integer = graph(pictures), model.simulate()(pictures), integer_graph(model)(pictures)
    assert not torch.equal(simulated, real)
    assert torch.equal(simulated, integer)


@pytest.mark.parametrize("name", FORMS)
def test_other_scales_differ_in_the_last_bits_only(graph: fx.GraphModule, pictures: Tensor, name: str) -> None:
    model = compress(graph, pictures, *FORMS[name])
    with torch.inference_mode():
        real, simulated, integer = graph(pictures), model.simulate()(pictures), integer_graph(model)(pictures)
    error = (simulated - real).abs().mean()
    assert error > 0
    # A value on a rounding boundary may fall to the other side: rare, and far smaller than quantisation itself.
    assert (simulated - integer).abs().mean() < 0.02 * error


def test_layers_multiply_integers_within_the_range_of_their_widths(graph: fx.GraphModule, pictures: Tensor) -> None:
    model = compress(graph, pictures, *FORMS["s4"])
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            if n.target in {torch.ops.aten.conv2d.default, torch.ops.aten.linear.default}:
                args = self.fetch_args_kwargs_from_env(n)[0]
                seen[n.name] = (args[0], args[1])
            return super().run_node(n)

    with torch.inference_mode():
        Watch(integer_graph(model)).run(pictures)
    assert len(seen) == 4
    for operands in seen.values():
        for value in operands:
            assert torch.equal(value, value.round())
            assert 3 < value.abs().max() <= 7


@pytest.mark.parametrize("name", FORMS)
def test_no_input_exceeds_the_largest_sums(graph: fx.GraphModule, pictures: Tensor, name: str) -> None:
    model = compress(graph, pictures, *FORMS[name])
    bounds = largest_sums(model)
    assert list(bounds) == list(model.plan.layers)
    reached: dict[str, float] = {}
    names = {node.name: layer for layer, node in layer_nodes(model.graph)}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if n.name in names:
                assert isinstance(result, Tensor)
                reached[names[n.name]] = float(result.abs().max())
            return result

    extreme = 1e6 * torch.randn(8, 3, 16, 20, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        Watch(integer_graph(model)).run(extreme)
    assert reached.keys() == bounds.keys()
    assert all(0 < reached[layer] <= bounds[layer] < EXACT_SUM for layer in bounds)
    # The first layer sees nothing but clipped values, so its bound is nearly reached.
    assert reached["head"] > 0.5 * bounds["head"]


def test_a_float_layer_reads_real_values(graph: fx.GraphModule, pictures: Tensor) -> None:
    model = compress(graph, pictures, *FORMS["s8"], Placement.INPUTS_OUTPUTS)
    plan = model.plan.with_float({"up"}, "on purpose")
    sites = {site.tensor.name for site in place(model.graph, plan)}
    kept = {n: w for n, w in model.weights.items() if n != "up.weight"}
    model = CompressedModel(model.graph, plan, kept, {n: p for n, p in model.activations.items() if n in sites})
    with torch.inference_mode():
        simulated, integer = model.simulate()(pictures), integer_graph(model)(pictures)
    assert (simulated - integer).abs().mean() < 1e-4 * simulated.abs().mean()
    assert set(largest_sums(model)) == set(plan.layers) - {"up"}
