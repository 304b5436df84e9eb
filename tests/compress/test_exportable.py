"""exportable() computes what simulate() computes, with every integer written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from compress.compressed import CompressedModel
from compress.exportable import CONSTANTS, dequantize, exportable, quantize_dequantize
from compress.graph import capture, layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8, QuantFormat
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import collect


class Small(nn.Module):
    """A convolution called twice, one without bias, a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(8, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.head(x))
        return self.up(self.body(nn.functional.leaky_relu(self.body(y), 0.1)) + y)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    coarse = torch.rand(4, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def graph(pictures: Tensor) -> fx.GraphModule:
    torch.manual_seed(4)
    return capture(Small(), pictures[:1])


def compress(graph: fx.GraphModule, pictures: Tensor, placement: Placement, activation: QuantFormat = A8,
             weight: QuantFormat = W8) -> CompressedModel:  # fmt: skip
    layers = {name: LayerPlan(weight=weight, activation=activation) for name, _ in layer_nodes(graph)}
    plan = Plan(architecture="a", device="d", runtime="r", float_precision="fp32", placement=placement, layers=layers)
    statistics = collect(graph, pictures, {site.tensor.name for site in place(graph, plan)})
    return set_ranges(graph, plan, statistics, RangeMethod.MINMAX, RangeMethod.MINMAX)


S8 = QuantFormat(bits=8, granularity=A8.granularity, symmetric=True, signed=True)


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize("activation", [A8, A8.model_copy(update={"bits": 4}), S8], ids=["a8", "a4", "s8"])
def test_equals_the_simulation(
    graph: fx.GraphModule, pictures: Tensor, placement: Placement, activation: QuantFormat
) -> None:
    model = compress(graph, pictures, placement, activation)
    with torch.inference_mode():
        simulated, written, real = model.simulate()(pictures), exportable(model)(pictures), graph(pictures)
    error = (simulated - real).abs().mean()
    assert error > 0
    # A value on a rounding boundary may fall to the other side: rare, and far smaller than quantisation itself.
    assert (simulated - written).abs().mean() < 0.01 * error


def test_float_biases_stay_where_the_runtime_wants_them(graph: fx.GraphModule, pictures: Tensor) -> None:
    model = compress(graph, pictures, Placement.INPUTS)
    integer, real = exportable(model).state_dict(), exportable(model, quantize_bias=False).state_dict()
    biases = {name for name in integer if ".bias." in name and name.endswith(".integers")}
    assert biases == {f"{CONSTANTS}head.bias.conv2d.integers", f"{CONSTANTS}up.bias.conv_transpose2d.integers"}
    assert all(integer[name].dtype is torch.int32 for name in biases)
    assert not any(".bias." in name for name in real)


def test_integers_are_the_models(graph: fx.GraphModule, pictures: Tensor) -> None:
    model = compress(graph, pictures, Placement.INPUTS, weight=W8.model_copy(update={"bits": 3}))
    state = exportable(model).state_dict()
    for name, weight in model.weights.items():
        integers = state[f"{CONSTANTS}{name}.integers"]
        assert integers.dtype is torch.int8
        assert torch.equal(integers, weight.integers)
        assert int(integers.abs().max()) == 3


def test_one_pair_per_site_and_one_dequantize_per_constant(graph: fx.GraphModule, pictures: Tensor) -> None:
    model = compress(graph, pictures, Placement.EVERYTHING)
    targets = [node.target for node in exportable(model).graph.nodes]
    assert targets.count(quantize_dequantize) == len(model.sites())
    assert targets.count(dequantize) == 4 + 2


def test_narrow_formats_are_clamped_in_their_container(graph: fx.GraphModule, pictures: Tensor) -> None:
    clamp = torch.ops.aten.clamp.default
    narrow = exportable(compress(graph, pictures, Placement.INPUTS, A8.model_copy(update={"bits": 4})))
    full = exportable(compress(graph, pictures, Placement.INPUTS))
    counts = [[n.target for n in module.graph.nodes].count(clamp) for module in (narrow, full)]
    assert counts == [4, 0]
