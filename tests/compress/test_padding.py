"""pad_channels keeps the function bit for bit, and leaves alone what it cannot pad."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from compress.channel_layouts import PAD, cut, padded_layouts
from compress.compressed import CompressedModel
from compress.equality import largest_difference
from compress.graph import capture, layer_nodes, tensor
from compress.padding import pad_channels, spread
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8, QuantFormat
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import collect
from workloads.loading import load_checkpoint


def compress(module: nn.Module, calibration: Tensor, placement: Placement = Placement.INPUTS_OUTPUTS,
             weight: QuantFormat = W8) -> CompressedModel:  # fmt: skip
    graph = capture(module, calibration[:1])
    layers = {name: LayerPlan(weight=weight, activation=A8) for name, _ in layer_nodes(graph)}
    plan = Plan(architecture="a", device="d", runtime="r", float_precision="fp32", placement=placement, layers=layers)
    statistics = collect(graph, calibration, {site.tensor.name for site in place(graph, plan)})
    return set_ranges(graph, plan, statistics, RangeMethod.MINMAX, RangeMethod.MINMAX)


def same_output(before: CompressedModel, after: CompressedModel, x: Tensor) -> bool:
    with torch.inference_mode():
        return torch.equal(before.simulate()(x), after.simulate()(x))


class Parts(nn.Module):
    """Concatenations, splits, slices and gates of odd widths, so that padding sits in the middle of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 5, 3, padding=1)
        self.left = nn.Conv2d(5, 6, 3, padding=1)
        self.right = nn.Conv2d(5, 7, 3, padding=1)
        self.slope = nn.PReLU(13)
        self.middle = nn.Conv2d(9, 11, 1, bias=False)
        self.gate = nn.Conv2d(1, 1, 1)
        self.up = nn.ConvTranspose2d(15, 9, 2, stride=2)
        self.tail = nn.Conv2d(9, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.head(x))
        joined = self.slope(torch.cat([self.left(first), self.right(first)], 1))
        one, rest = torch.split(joined, (4, 9), 1)
        gate = torch.sigmoid(self.gate(one.mean(1, keepdim=True)))
        body = self.middle(rest) * gate
        energy = (body * body).mean((2, 3), keepdim=True).sqrt()
        return self.tail(self.up(torch.cat([one, (body + energy)[:, 1:9], joined[:, 5:8]], 1)))


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    coarse = torch.rand(4, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def parts() -> Parts:
    torch.manual_seed(2)
    return Parts().eval()


@pytest.mark.parametrize(
    ("placement", "multiple"), [*[(p, 4) for p in Placement], (Placement.INPUTS, 1), (Placement.INPUTS, 16)]
)
def test_parts_keep_their_function(parts: Parts, pictures: Tensor, placement: Placement, multiple: int) -> None:
    model = compress(parts, pictures, placement)
    padded, _ = pad_channels(model, multiple)
    assert same_output(model, padded, pictures)
    with torch.inference_mode():
        assert torch.allclose(model.graph(pictures), padded.graph(pictures), atol=1e-5)


def test_what_was_padded_and_what_was_not(parts: Parts, pictures: Tensor) -> None:
    model = compress(parts, pictures)
    padded, counts = pad_channels(model, 4)
    # `gate` has one channel that broadcasts, and the network's output keeps its three channels.
    assert counts == {"head": (5, 8), "left": (6, 8), "right": (7, 8), "middle": (11, 12), "up": (9, 12)}
    _, counts = pad_channels(compress(Chain(), pictures), 4)
    assert counts == {"a": (5, 8), "b": (6, 8), "c": (7, 8)}
    assert padded.weights["head.weight"].integers.shape == (8, 3, 3, 3)
    # up reads 4 + 8 channels and joined[5:8], which spans the two channels of padding behind `left`.
    assert padded.weights["up.weight"].integers.shape == (17, 12, 2, 2)
    assert tensor(padded.graph, "tail.weight").shape == (3, 12, 1, 1)
    assert model.weights["head.weight"].integers.shape == (5, 3, 3, 3)


class Chain(nn.Module):
    """Two branches joined and split again behind layers that pad to different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 5, 1)
        self.b = nn.Conv2d(3, 6, 1)
        self.c = nn.Conv2d(7, 7, 1)
        self.d = nn.Conv2d(11, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x), torch.sigmoid(self.b(x))], 1)
        first, second = joined.split([4, 7], 1)
        return self.d(torch.cat([first, self.c(second)], 1))


def test_padding_in_the_middle_moves_the_split(pictures: Tensor) -> None:
    model = compress(Chain(), pictures)
    padded, _ = pad_channels(model, 4)
    split = next(n for n in padded.graph.graph.nodes if n.name.startswith("split"))
    assert split.args[1] == [4, 12]
    weight = padded.weights["c.weight"].integers
    assert weight.shape == (8, 12, 1, 1)
    # second = [a4, pad, pad, pad, b0 ... b5, pad, pad]
    assert torch.equal(weight[:7, [0, 4, 5, 6, 7, 8, 9]], model.weights["c.weight"].integers)
    assert not weight[:, [1, 2, 3, 10, 11]].any()
    assert not weight[7].any()
    assert same_output(model, padded, pictures)


def test_layouts_of_a_concatenation(pictures: Tensor) -> None:
    graph = capture(Chain(), pictures[:1])
    layouts = {node.name: layout for node, layout in padded_layouts(graph, 4).items()}
    assert layouts["cat"] == (0, 1, 2, 3, 4, PAD, PAD, PAD, 5, 6, 7, 8, 9, 10, PAD, PAD)
    assert layouts["getitem_1"] == (0, PAD, PAD, PAD, 1, 2, 3, 4, 5, 6, PAD, PAD)
    assert "getitem" not in layouts
    assert "conv2d_3" not in layouts


def test_cut_and_spread() -> None:
    layout = (0, 1, PAD, 2, PAD)
    assert [cut(layout, b) for b in range(4)] == [0, 1, 3, 5]
    assert spread(torch.tensor([[5, 6, 7]]), 1, layout).tolist() == [[5, 6, 0, 7, 0]]


def test_asymmetric_weights_are_padded_with_their_zero_point(pictures: Tensor) -> None:
    model = compress(Chain(), pictures, weight=W8.model_copy(update={"symmetric": False}))
    padded, _ = pad_channels(model, 4)
    weight = padded.weights["c.weight"]
    assert torch.equal(weight.integers[:, 1, 0, 0].int(), weight.params.zero_point)
    assert not weight.values[:, 1].any()
    assert same_output(model, padded, pictures)


class Shared(nn.Module):
    """One layer called on two tensors, the second of which is the network's input through a group of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 1)
        self.block = nn.Conv2d(6, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.block(self.head(x)))
        return nn.functional.pixel_shuffle(self.depthwise(y).repeat(1, 2, 1, 1), 2)


def test_groups_and_unknown_operators_stay(pictures: Tensor) -> None:
    model = compress(Shared(), pictures)
    padded, counts = pad_channels(model, 4)
    assert counts == {}
    assert same_output(model, padded, pictures)


def test_multiple_must_be_positive(parts: Parts, pictures: Tensor) -> None:
    with pytest.raises(UsageError, match="multiple of 0"):
        pad_channels(compress(parts, pictures), 0)


@pytest.mark.parametrize(
    ("file", "multiple", "expected"),
    [
        ("rfdn_x4.pth", 4, {(25, 28), (50, 52)}),
        ("imdn_x4.pth", 4, set()),
        ("pan_x4.pth", 16, {(20, 32), (24, 32), (40, 48)}),
        ("rlfn_ntire_x4.pth", 4, {(46, 48)}),
        ("fsrcnn_x4.pth", 16, {(12, 16), (56, 64)}),
    ],
)
def test_real_networks(data: Path, file: str, multiple: int, expected: set[tuple[int, int]]) -> None:
    loaded = load_checkpoint(data / "checkpoints" / file)
    x = loaded.workload.example_input(20, 22)
    model = compress(loaded.module, x, Placement.INPUTS)
    padded, counts = pad_channels(model, multiple)
    assert set(counts.values()) == expected
    assert largest_difference(model.graph, padded.graph, x) < 1e-5
    # Other widths may be summed in another order, which moves single values across a rounding boundary.
    with torch.inference_mode():
        before, after = model.simulate()(x), padded.simulate()(x)
    assert (before - after).abs().mean() < 1e-4 * before.abs().max()
