"""Recovery training: exact when frozen, better on held-out crops, resumable to the bit, the same in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from skimage import data as pictures
from torch import Tensor, fx, nn
from torch.utils.data import Dataset

from bitwright.foundation.errors import CheckpointError, UsageError
from compress.compressed import CompressedModel, QuantizedWeight
from compress.graph import capture, layer_nodes, tensor, weight_name
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8, QuantFormat, container, params_from_range, quantize
from compress.recovery.checkpoint import Position
from compress.recovery.recover import STATE, Recovered, recover
from compress.recovery.settings import OutputLoss, RecoverySettings
from compress.recovery.student import freeze, student_of
from compress.statistics import collect

W3 = W8.model_copy(update={"bits": 3})
A4 = A8.model_copy(update={"bits": 4})
SHORT = RecoverySettings(
    steps=40, batch=4, weight_rate=0.05, scale_rate=0.005, zero_rate=0.05, bias_rate=0.05, warm_up=4, ema=0.9,
    checks=4, log_every=1, layers_per_tap=2, save_seconds=0.0,
)  # fmt: skip


class Small(nn.Module):
    """Skip connections, a split, a bias-free layer, a layer used twice and a transposed convolution."""

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
        again = self.mix(torch.cat([rest, mixed], 1))
        return self.tail(torch.relu(again) + first) + nn.functional.interpolate(x, scale_factor=2)


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Crops of a photograph, a pure function of the index; the target is of no interest."""

    def __init__(self, size: int = 24) -> None:
        self.image = torch.from_numpy(pictures.astronaut()).permute(2, 0, 1).to(torch.float32) / 255
        self.size = size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        i, j = torch.randint(0, 512 - self.size, (2,), generator=torch.Generator().manual_seed(index)).tolist()
        crop = self.image[:, i : i + self.size, j : j + self.size]
        return crop, crop


def batch(start: int, count: int) -> Tensor:
    data = Crops()
    return torch.stack([data[i][0] for i in range(start, start + count)])


HELD_OUT = batch(1_000_000, 8)


def network(pruned: bool = False) -> fx.GraphModule:
    torch.manual_seed(0)
    net = Small()
    if pruned:
        with torch.no_grad():
            net.body.weight[12:] = 0
    return capture(net, torch.zeros(1, 3, 24, 24))


def quantized(weight: QuantFormat, activation: QuantFormat = A8, placement: Placement = Placement.INPUTS,
              pruned: bool = False) -> CompressedModel:  # fmt: skip
    graph = network(pruned)
    layers = {name: LayerPlan(weight=weight, activation=activation) for name, _ in layer_nodes(graph)}
    plan = Plan(
        architecture="small", device="x", runtime="y", float_precision="fp32", placement=placement, layers=layers
    )
    model = CompressedModel(graph, plan)
    for name, node in layer_nodes(graph):
        value = tensor(graph, weight_name(node))
        axis = 1 if name == "tail" else 0
        flat = value.transpose(0, axis).flatten(1)
        params = params_from_range(flat.amin(1), flat.amax(1), weight, axis)
        integers = quantize(value, params, weight).to(container(weight))
        model.weights[weight_name(node)] = QuantizedWeight(integers, params, weight)
    seen = collect(graph, batch(0, 8), {s.tensor.name for s in model.sites()})
    for name, found in seen.items():
        model.activations[name] = params_from_range(torch.tensor(found.low), torch.tensor(found.high), activation)
    return model


def closeness(teacher: fx.GraphModule) -> object:
    def score(net: fx.GraphModule) -> float:
        with torch.no_grad():
            return -float(((net(HELD_OUT) - teacher(HELD_OUT)) ** 2).mean())

    return score


def trained(model: CompressedModel, settings: RecoverySettings, **given: object) -> Recovered:
    teacher = network()
    return recover(model, teacher, Crops(), settings, score=closeness(teacher), **given)  # type: ignore[arg-type]


def outputs(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = module(x)
    return result


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("placement", list(Placement))
def test_student_starts_as_the_model_and_freezes_to_what_it_computes(placement: Placement) -> None:
    model = quantized(W8, placement=placement)
    student = student_of(model, network())
    assert torch.equal(outputs(student, HELD_OUT), outputs(model.simulate(), HELD_OUT))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if parameter.requires_grad:
                size = {"latent": 0.7, "log_factor": 0.05, "zero_point": 2.0, "offset": 1.0}[name.rpartition(".")[2]]
                parameter += size * torch.randn(parameter.shape, generator=generator)
    frozen = freeze(model, student)
    wanted = outputs(student, HELD_OUT)
    assert not torch.equal(wanted, outputs(model.simulate(), HELD_OUT))
    assert torch.equal(outputs(frozen.simulate(), HELD_OUT), wanted)
    integers, params = next(iter(frozen.integer_biases().values()))
    assert integers.dtype == torch.int32
    assert params.scale.dtype == torch.float32


def test_frozen_model_survives_its_file(tmp_path: Path) -> None:
    model = quantized(W3)
    better = trained(model, replace(SHORT, steps=8)).model
    better.save(tmp_path / "m.safetensors")
    again = CompressedModel.load(tmp_path / "m.safetensors", model.graph)
    assert torch.equal(outputs(again.simulate(), HELD_OUT), outputs(better.simulate(), HELD_OUT))


def test_training_brings_a_low_bit_model_closer_on_crops_it_never_saw() -> None:
    model = quantized(W3, A4)
    result = trained(model, SHORT)
    assert result.after > 0.5 * result.before  # scores are negative errors: at least halved
    assert closeness(network())(result.model.simulate()) == pytest.approx(result.after)  # type: ignore[operator]
    assert result.history[-1][1] < result.history[0][1]


def test_result_is_never_worse_than_the_start() -> None:
    model = quantized(W8)
    wild = replace(SHORT, steps=6, weight_rate=30.0, scale_rate=3.0, ema=0.0)
    result = trained(model, wild)
    assert result.after == result.before
    assert result.model is model


def test_pruned_weights_stay_zero() -> None:
    model = quantized(W3, pruned=True)
    teacher = network(pruned=True)
    result = recover(model, teacher, Crops(), SHORT, score=lambda net: float(torch.rand(())))
    weight = result.model.weights["body.weight"].integers
    assert not weight[12:].any()
    assert (weight[:12] != model.weights["body.weight"].integers[:12]).any()


class StopError(Exception):
    pass


def test_interrupted_training_ends_bit_equal(tmp_path: Path) -> None:
    model = quantized(W3)
    settings = replace(SHORT, steps=14, checks=3)

    def stop_at(step: int) -> object:
        def told(position: Position) -> None:
            if position.step == step:
                raise StopError

        return told

    whole = trained(model, settings)
    for step in (5, 11):
        with pytest.raises(StopError):
            trained(model, settings, folder=tmp_path, on_log=stop_at(step))
        assert (tmp_path / STATE).is_file()
    resumed = trained(model, settings, folder=tmp_path)
    assert resumed.history == whole.history
    assert (resumed.after, resumed.best_step) == (whole.after, whole.best_step)
    for name, weight in whole.model.weights.items():
        assert torch.equal(weight.integers, resumed.model.weights[name].integers)
        assert torch.equal(weight.params.scale, resumed.model.weights[name].params.scale)
    assert torch.equal(outputs(whole.model.simulate(), HELD_OUT), outputs(resumed.model.simulate(), HELD_OUT))


def test_state_of_another_training_is_refused(tmp_path: Path) -> None:
    model = quantized(W3)
    trained(model, replace(SHORT, steps=2), folder=tmp_path)
    with pytest.raises(UsageError, match="another network, plan or settings"):
        trained(model, replace(SHORT, steps=3), folder=tmp_path)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:200])
    with pytest.raises(CheckpointError, match="damaged"):
        trained(model, replace(SHORT, steps=2), folder=tmp_path)


def test_minutes_become_a_number_of_steps_that_fits() -> None:
    few, many = (trained(quantized(W3), replace(SHORT, steps=None, minutes=m, checks=2)).steps for m in (0.01, 0.1))
    assert 2 <= few < many


def test_self_distillation_trains_on_labels_and_its_own_past(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    graph = capture(net, torch.zeros(1, 3, 24, 24))
    layers = {name: LayerPlan(weight=W3, activation=A8) for name, _ in layer_nodes(graph)}
    plan = Plan(architecture="x", device="x", runtime="y", float_precision="fp32",
                placement=Placement.INPUTS, layers=layers)  # fmt: skip
    model = CompressedModel(graph, plan)
    for _, node in layer_nodes(graph):
        value = tensor(graph, weight_name(node))
        params = params_from_range(value.flatten(1).amin(1), value.flatten(1).amax(1), W3, 0)
        model.weights[weight_name(node)] = QuantizedWeight(quantize(value, params, W3).to(torch.int8), params, W3)
    for name, found in collect(graph, batch(0, 8), {s.tensor.name for s in model.sites()}).items():
        model.activations[name] = params_from_range(torch.tensor(found.low), torch.tensor(found.high), A8)

    class Labelled(Dataset[tuple[Tensor, Tensor]]):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return Crops()[index][0], torch.tensor(index % 4)

    settings = replace(SHORT, steps=9, checks=3, output=OutputLoss.KL, truth_weight=0.5, self_distillation=0.8)
    crops, labels = batch(0, 16), torch.arange(16) % 4

    def score(network: fx.GraphModule) -> float:
        with torch.no_grad():
            return -float(nn.functional.cross_entropy(network(crops), labels))

    given = {"score": score, "task_loss": nn.functional.cross_entropy}
    whole = recover(model, graph, Labelled(), settings, **given)  # type: ignore[arg-type]
    without = recover(model, graph, Labelled(), replace(settings, self_distillation=0.0), **given)  # type: ignore[arg-type]
    assert whole.history[-1] != without.history[-1]
    assert whole.history[0] == without.history[0]

    def stop(position: Position) -> None:
        if position.step == 5:
            raise StopError

    with pytest.raises(StopError):
        recover(model, graph, Labelled(), settings, folder=tmp_path, on_log=stop, **given)  # type: ignore[arg-type]
    assert recover(model, graph, Labelled(), settings, folder=tmp_path, **given).history == whole.history  # type: ignore[arg-type]


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    code = (
        "import importlib.util, json, sys, dataclasses, os\n"
        "spec = importlib.util.spec_from_file_location('helpers', sys.argv[1])\n"
        "helpers = importlib.util.module_from_spec(spec); sys.modules['helpers'] = helpers\n"
        "spec.loader.exec_module(helpers)\n"
        "slow = {'weight_rate': 0.01, 'scale_rate': 0.001, 'zero_rate': 0.01, 'bias_rate': 0.01}\n"
        "settings = dataclasses.replace(helpers.SHORT, steps=10, checks=2, **slow)\n"
        "result = helpers.trained(helpers.quantized(helpers.W3), settings)\n"
        "if os.environ.get('RANK', '0') == '0':\n"
        "    print(json.dumps(result.history))\n"
    )
    script = tmp_path / "train.py"
    script.write_text(code)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    curves = []
    for command in ([sys.executable], torchrun):
        done = subprocess.run(
            [*command, str(script), __file__], env=environment, cwd=root, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr[-2000:]
        curves.append(json.loads(done.stdout.strip().splitlines()[-1]))
    for (step, loss, _), (other_step, other_loss, _) in zip(*curves, strict=True):
        assert step == other_step
        assert other_loss == pytest.approx(loss, rel=1e-5)
