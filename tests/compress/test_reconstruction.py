"""Reconstruction on real pictures: closer to float, exact when hardened, resumable, and never worse than its input."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from skimage import data as pictures
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from compress.block_training import State
from compress.blocks import extract, output_name, split
from compress.compressed import CompressedModel, QuantizedWeight
from compress.graph import capture, input_node, layer_nodes, tensor, weight_name
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8, QuantFormat, container, params_from_range, quantize
from compress.reconstruction import ReconstructionSettings, harden, reconstruct, trainable
from compress.statistics import collect

W3 = W8.model_copy(update={"bits": 3})
SHORT = ReconstructionSettings(
    iterations=60, checks=3, weight_rate=0.05, scale_rate=0.006, zero_rate=0.06, bias_rate=0.06
)


class Small(nn.Module):
    """Skip connections, a split, a bias-free layer and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.mix = nn.Conv2d(24, 16, 1)
        self.tail = nn.ConvTranspose2d(16, 3, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.head(x)
        kept, rest = torch.chunk(nn.functional.leaky_relu(self.body(first), 0.05), 2, 1)
        mixed = self.mix(torch.cat([kept, first], 1)) + nn.functional.pad(rest, (0, 0, 0, 0, 4, 4))
        return self.tail(mixed + first) + nn.functional.interpolate(x, scale_factor=2)


def crops(count: int, size: int = 24) -> Tensor:
    image = torch.from_numpy(pictures.astronaut()).permute(2, 0, 1).to(torch.float32) / 255
    corners = torch.randint(0, 512 - size, (count, 2), generator=torch.Generator().manual_seed(1)).tolist()
    return torch.stack([image[:, i : i + size, j : j + size] for i, j in corners])


def quantized(form: QuantFormat, placement: Placement = Placement.INPUTS, pruned: bool = False) -> CompressedModel:
    torch.manual_seed(0)
    net = Small()
    if pruned:
        with torch.no_grad():
            net.body.weight[12:] = 0
            net.head.weight[:, :, 1, 1] = 0
    graph = capture(net, torch.zeros(1, 3, 24, 24))
    layers = {name: LayerPlan(weight=form, activation=A8) for name, _ in layer_nodes(graph)}
    plan = Plan(
        architecture="small", device="x", runtime="y", float_precision="fp32", placement=placement, layers=layers
    )
    model = CompressedModel(graph, plan)
    for name, node in layer_nodes(graph):
        weight = tensor(graph, weight_name(node))
        axis = 1 if name == "tail" else 0
        flat = weight.transpose(0, axis).flatten(1)
        params = params_from_range(flat.amin(1), flat.amax(1), form, axis)
        integers = quantize(weight, params, form).to(container(form))
        model.weights[weight_name(node)] = QuantizedWeight(integers, params, form)
    seen = collect(graph, crops(8), {s.tensor.name for s in model.sites()})
    for name, statistics in seen.items():
        model.activations[name] = params_from_range(torch.tensor(statistics.low), torch.tensor(statistics.high), A8)
    return model


def error(model: CompressedModel, x: Tensor, teacher: nn.Module | None = None) -> float:
    with torch.no_grad():
        return float(((model.simulate()(x) - (teacher or model.graph)(x)) ** 2).mean())


def same(a: CompressedModel, b: CompressedModel) -> bool:
    x = crops(2)
    weights = all(torch.equal(w.integers, b.weights[n].integers) for n, w in a.weights.items())
    scales = all(torch.equal(p.scale, b.activations[n].scale) for n, p in a.activations.items())
    return weights and scales and torch.equal(a.simulate()(x), b.simulate()(x))


@pytest.mark.parametrize("layers", [None, 1, 2])
def test_new_crops_are_closer_to_float_and_the_input_stays(layers: int | None) -> None:
    model, unseen = quantized(W3), crops(40)[32:]
    before = error(model, unseen)
    integers = {n: w.integers.clone() for n, w in model.weights.items()}
    biases = {n: v.clone() for n, v in model.graph.state_dict().items()}
    settings = dataclasses.replace(SHORT, layers_per_block=layers)
    result = reconstruct(model, crops(32), settings=settings)
    assert error(result, unseen, model.graph) < (0.5 if layers is None else 0.8) * before
    assert error(model, unseen) == before
    assert all(torch.equal(w.integers, integers[n]) for n, w in model.weights.items())
    assert all(torch.equal(v, biases[n]) for n, v in model.graph.state_dict().items())
    changed = [not torch.equal(w.integers, integers[n]) for n, w in result.weights.items()]
    assert all(changed)
    for weight in result.weights.values():
        assert -3 <= int(weight.integers.min()) <= int(weight.integers.max()) <= 3


@pytest.mark.parametrize("placement", list(Placement))
def test_simulation_computes_exactly_what_was_optimised(placement: Placement) -> None:
    model, x = quantized(W8, placement), crops(4)
    student = trainable(model, SHORT, model.graph)
    assert torch.equal(student(x), model.simulate()(x)), "untrained, the student is the input model"
    with torch.no_grad():
        for i, p in enumerate(p for p in student.parameters() if p.requires_grad):
            p += 0.7 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * (0.1 if p.numel() == 1 else 1)
    moved = harden(model, student)
    assert torch.equal(student(x), moved.simulate()(x))
    assert not torch.equal(moved.simulate()(x), model.simulate()(x))


def test_padding_and_pruned_weights_stay_zero() -> None:
    model = quantized(W3, pruned=True)
    result = reconstruct(model, crops(16), settings=SHORT)
    assert int(result.weights["body.weight"].integers[12:].abs().max()) == 0
    assert int(result.weights["head.weight"].integers[:, :, 1, 1].abs().max()) == 0
    assert not torch.equal(result.weights["body.weight"].integers, model.weights["body.weight"].integers)


def test_a_loaded_model_may_move_weights_that_only_rounded_to_zero(tmp_path: Path) -> None:
    model, x = quantized(W3, pruned=True), crops(16)
    model.save(tmp_path / "model.safetensors")
    loaded = CompressedModel.load(tmp_path / "model.safetensors", model.graph)
    result = reconstruct(loaded, x, settings=SHORT, reference=model.graph)
    rounded = (model.weights["body.weight"].integers == 0) & (tensor(model.graph, "body.weight") != 0)
    assert int((result.weights["body.weight"].integers[rounded] != 0).sum()) > 0
    assert int(result.weights["body.weight"].integers[12:].abs().max()) == 0
    assert error(result, x, model.graph) < 0.5 * error(model, x)


@pytest.mark.parametrize("layers", [None, 2])
def test_a_killed_job_ends_in_the_same_model(layers: int | None) -> None:
    model, x = quantized(W3), crops(16)
    settings = dataclasses.replace(SHORT, iterations=12, layers_per_block=layers)
    events: list[tuple[str, State]] = []
    whole = reconstruct(model, x, settings=settings, on_block=lambda name, state: events.append((name, state)))
    assert same(whole, reconstruct(model, x, settings=settings))
    assert not same(whole, reconstruct(model, x, settings=dataclasses.replace(settings, seed=5)))
    for killed_after in (1, len(events) - 1, len(events)):
        saved = dict(events[:killed_after])
        later: dict[int, str] = {}

        def listen(name: str, state: State, seen: dict[int, str] = later) -> None:
            seen[len(seen)] = name

        resumed = reconstruct(model, x, settings=settings, resume=saved, on_block=listen)
        assert same(whole, resumed)
        assert len(later) == len(events) - killed_after, "finished steps are not repeated"


def test_state_of_another_model_is_refused() -> None:
    model = quantized(W3)
    name = split(model.graph, None)[0].name
    with pytest.raises(UsageError, match="another model"):
        reconstruct(model, crops(8), settings=SHORT, resume={name: {"step": torch.tensor(3)}})


def test_never_worse_on_held_out_crops() -> None:
    model, x = quantized(W8), crops(20)
    for layers in (None, 1):
        wild = ReconstructionSettings(
            8, layers, checks=2, weight_rate=40.0, scale_rate=2.0, zero_rate=90.0, bias_rate=1e3
        )
        assert error(reconstruct(model, x, settings=wild), x[16:], model.graph) <= error(model, x[16:])


def test_reference_is_what_is_matched() -> None:
    model, x = quantized(W8), crops(24)
    shifted = quantized(W8).graph
    with torch.no_grad():
        tensor(shifted, "tail.bias").add_(0.02)
    result = reconstruct(model, x, settings=SHORT, reference=shifted)
    assert error(result, x, shifted) < 0.2 * error(model, x, shifted)


@pytest.mark.parametrize("layers", [None, 1, 2, 3])
def test_blocks_chain_to_the_network(layers: int | None) -> None:
    graph, x = quantized(W8).graph, crops(3)
    blocks = split(graph, layers)
    counts = [sum(node.name in block.nodes for _, node in layer_nodes(graph)) for block in blocks]
    assert counts == {None: [4], 1: [1, 1, 1, 1], 2: [1, 2, 1], 3: [3, 1]}[layers]
    values = {input_node(graph).name: x}
    for block in blocks:
        values.update(zip(block.outputs, extract(graph, block)(*[values[n] for n in block.inputs]), strict=True))
    assert torch.equal(values[output_name(graph)], graph(x))


@pytest.mark.parametrize("bad", [{"iterations": 0}, {"batch": 0}, {"held_out": 1.0}, {"checks": 0}])
def test_settings_out_of_range(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="reconstruction"):
        ReconstructionSettings(**bad)


def test_too_few_crops_and_layers() -> None:
    model = quantized(W8)
    with pytest.raises(UsageError, match="at least 2"):
        reconstruct(model, crops(1))
    with pytest.raises(UsageError, match="at least one layer"):
        split(model.graph, 0)
