"""Rounding by the damage to a layer's output: on the grid, zeros kept, and far less damage than to nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.compressed import QuantizedWeight
from compress.graph import capture, clone, layer_nodes, set_tensor, tensor, weight_name
from compress.quantizers import W4_BLOCKS, Granularity, QuantFormat, container, encode, params_from_range, quantize
from compress.ranges import RangeMethod, weight_params
from compress.second_order_rounding import factors, rounded
from compress.statistics import observe
from workloads.loading import load_checkpoint


class Net(nn.Module):
    """A plain, a grouped, a strided and a linear layer, and one that is transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding="same")
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(12, 8, 3, stride=2, bias=False)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.strided(torch.relu(self.grouped(torch.relu(self.plain(x))))))
        return self.last(self.up(x).movedim(1, -1))


def smooth(count: int) -> Tensor:
    return nn.functional.interpolate(torch.rand(count, 3, 6, 6), scale_factor=4, mode="bicubic")


def nearest(weight: Tensor, form: QuantFormat) -> QuantizedWeight:
    rows = weight.detach().flatten(1)
    axis = 0 if form.granularity is Granularity.CHANNEL else None
    low, high = (rows.amin(1), rows.amax(1)) if axis == 0 else (rows.min(), rows.max())
    params = params_from_range(low, high, form, axis)
    return QuantizedWeight(quantize(weight, params, form).to(container(form)), params, form)


@pytest.mark.parametrize("granularity", [Granularity.TENSOR, Granularity.CHANNEL])
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_layer_says_more_of_what_it_said(granularity: Granularity, symmetric: bool) -> None:
    torch.manual_seed(0)
    inputs = smooth(16)
    graph = capture(Net(), inputs[:1])
    names = {weight_name(node) for _, node in layer_nodes(graph)}
    known = factors(graph, inputs, names)
    assert known.keys() == names - {"up.weight"}, "each phase of a transposed convolution has its own sums"
    assert known["grouped.weight"].shape == (2, 36, 36)
    form = QuantFormat(bits=4, granularity=granularity, symmetric=symmetric, signed=True)
    layers = {weight_name(node): node for _, node in layer_nodes(graph)}
    seen: dict[str, Tensor] = {}
    unseen = smooth(8)

    sources = {str(node.args[0]): name for name, node in layers.items()}
    observe(graph, unseen, set(sources), lambda n, v: seen.__setitem__(n, v), "seeing inputs", batch=8)
    for source, name in sources.items():
        if name not in known:
            continue
        weight = tensor(graph, name)
        plain = nearest(weight, form)
        found = rounded(weight, plain, known[name])
        assert found.params is plain.params
        assert form.qmin <= int(found.integers.min()) <= int(found.integers.max()) <= form.qmax
        errors = []
        for values in (plain.values, found.values):
            node = layers[name]
            said = [node.target(seen[source], w, None, *node.args[3:]) for w in (weight, values)]
            errors.append(float((said[0] - said[1]).square().mean()))
        assert errors[1] < 0.8 * errors[0], name


def test_blocks_say_more_of_what_they_said_too() -> None:
    torch.manual_seed(0)
    weight, mixing = torch.randn(16, 256), torch.randn(256, 256)
    graph = capture(nn.Linear(256, 16, bias=False), torch.rand(1, 3, 8, 256), one_size=True)
    inputs = torch.randn(8, 3, 64, 256) @ mixing
    known = factors(graph, inputs, {"weight"})
    params = weight_params(weight, W4_BLOCKS, RangeMethod.MSE)
    plain = QuantizedWeight(encode(weight, params, W4_BLOCKS), params, W4_BLOCKS)
    found = rounded(weight, plain, known["weight"])
    assert found.params.scale.shape == (16, 2)
    assert torch.equal(found.params.scale, found.params.scale.half().float())
    errors = [float((inputs @ (weight - w.values).T).square().mean()) for w in (plain, found)]
    assert errors[1] < 0.6 * errors[0]


def test_pruned_weights_stay_zero() -> None:
    torch.manual_seed(1)
    weight = torch.randn(6, 16)
    weight[:, ::2] = 0
    mixing = torch.randn(16, 16)
    graph = capture(nn.Sequential(nn.Conv2d(16, 6, 1, bias=False)), torch.rand(1, 16, 8, 8))
    known = factors(graph, torch.einsum("ij,njhw->nihw", mixing, torch.randn(8, 16, 8, 8)), {"0.weight"})
    plain = nearest(weight, QuantFormat(bits=4, granularity=Granularity.CHANNEL, symmetric=True, signed=True))
    found = rounded(weight, plain, known["0.weight"])
    assert not found.values[:, ::2].any()
    assert not torch.equal(found.integers, plain.integers)


def test_uncorrelated_inputs_leave_nearest_rounding() -> None:
    """With a diagonal Hessian nothing can make up for anything."""
    weight = torch.randn(5, 9)
    plain = nearest(weight, QuantFormat(bits=3, granularity=Granularity.TENSOR, symmetric=True, signed=True))
    found = rounded(weight, plain, torch.diag(torch.rand(9) + 0.5).double()[None])
    assert torch.equal(found.integers, plain.integers)


def test_a_narrow_network_at_four_bits_keeps_a_decibel_more(data: Path) -> None:
    loaded = load_checkpoint(data / "checkpoints" / "fsrcnn_x4.pth")
    workload = loaded.workload
    graph = capture(loaded.module, workload.example_input(24, 24))
    names = [weight_name(node) for _, node in layer_nodes(graph) if "last_part" not in weight_name(node)][1:]
    inputs = workload.calibration(data / "sr" / "train", 16, 48)
    known = factors(graph, inputs, set(names))
    form = QuantFormat(bits=4, granularity=Granularity.CHANNEL, symmetric=True, signed=True)
    samples = workload.samples(data / "sr" / "test" / "Set5")

    quality = []
    for by_damage in (False, True):
        net = clone(graph)
        for name in names:
            weight = nearest(tensor(graph, name), form)
            if by_damage:
                weight = rounded(tensor(graph, name), weight, known[name])
            set_tensor(net, name, weight.values)
        quality.append(workload.evaluate(net, samples).mean)
    assert quality[1] > quality[0] + 1.0
