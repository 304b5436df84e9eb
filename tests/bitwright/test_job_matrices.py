"""Networks of matrix products that take one input size only: weights in 4 bits for a GPU, and integers for this CPU."""

from __future__ import annotations

import importlib
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from bitwright.foundation.files import write_bytes
from compress.plan import Plan
from deploy.engine import FloatPrecision
from deploy.engines import torch_compile
from deploy.torch_aot.compile import compile_network
from deploy.torch_aot.network import OnnxNetwork
from hw_profiles import list_profiles
from tests.bitwright.job_helpers import (
    Ended,
    command,
    compress,
    for_a_gpu_elsewhere,
    read_json,
    some_labelled_images,
    tiny_checkpoint,
)
from tests.marks import GPU, needs_compiler, needs_gpu

W4A16 = ("--device", "rtx-4090", "--precision", "w4a16")
MODELS = """
import torch
from torch import nn

from workloads.classification.format import ClassificationFormat
from workloads.classification.task import Classification

TASK = Classification(ClassificationFormat(10, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 32))


def perceptron():
    layers = nn.Flatten(), nn.Linear(3072, 256), nn.ReLU(), nn.Linear(256, 192), nn.ReLU(), nn.Linear(192, 10)
    return nn.Sequential(*layers), TASK


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, 32))
        self.norm, self.qkv, self.projection = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.feed_forward = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        split = self.qkv(self.norm(tokens)).reshape(x.shape[0], 16, 3, 2, 16).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*split.unbind(0))
        tokens = tokens + self.projection(seen.transpose(1, 2).reshape(x.shape[0], 16, 32))
        tokens = tokens + self.feed_forward(tokens)
        return self.head(tokens.mean(1))


def transformer():
    return Transformer(), TASK
"""


@pytest.fixture
def images(data: Path, tmp_path: Path) -> Path:
    return some_labelled_images(data, tmp_path / "cifar10")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with the networks that can be imported by its name, `matrices`."""
    (tmp_path / "matrices.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def trained(models: Path, images: Path, name: str, steps: int) -> Path:
    """A checkpoint of one of the networks after some steps on real images."""
    torch.manual_seed(0)
    network, task = getattr(importlib.import_module("matrices"), name)()
    samples = task.training(images, 32)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for step in range(steps):
        batch = [samples[i] for i in range(64 * step, 64 * (step + 1))]
        inputs, labels = torch.stack([x for x, _ in batch]), torch.stack([torch.as_tensor(y) for _, y in batch])
        optimizer.zero_grad()
        cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    path = models / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    return path


@for_a_gpu_elsewhere
def test_matrices_are_stored_in_4_bits_and_multiplied_in_fp16(
    models: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, run = trained(models, images, "perceptron", 150), tmp_path / "run"
    words = ("--model", "matrices:perceptron", "--data", images, "--calibration-count", "64", "--out", run)
    ended = command(capsys, "compress", checkpoint, *W4A16, *words)
    assert ended.code == 0, ended.err
    assert "weights in 4 bits, rounded by the damage to each layer's output: drop" in ended.err
    assert "w4a16 is rounded by the damage to each layer's output: no reconstruction" in ended.err
    assert "runs in float" not in ended.err
    report = read_json(run / "report.json")
    assert report["audit"]["planned"] == report["audit"]["executed"] == {"w4a16": 2, "fp16": 1}
    assert [(layer["weight_bits"], layer["act_bits"]) for layer in report["layers"]] == [(4, 16), (4, 16), (16, 16)]
    macs = [layer["macs"] for layer in report["layers"]]
    assert report["bitops"]["planned"] == 64 * sum(macs[:2]) + 256 * macs[2]
    plan = Plan.load(run / "plan.json")
    assert plan.layers["5"].reason == "blocks of 128 weights do not divide its 192 inputs"
    assert plan.weight_only
    assert abs(report["plan_search"][0]["drop_db"]) < 3
    kinds = {t.name: t.data_type for t in onnx.load(run / "model.onnx").graph.initializer}
    assert [kinds[f"{name}.weight.integers"] for name in "13"] == [onnx.TensorProto.INT4] * 2
    # 4 bits a weight and a scale for each 128 of them, beside 32 bits in the file of the float network.
    float_bytes = (run / "float" / "float.onnx").stat().st_size
    assert (run / "model.onnx").stat().st_size < float_bytes / 6
    assert "p-w4a16" in (run / "report.html").read_text()
    again = command(capsys, "compress", checkpoint, *W4A16, *words, "--resume")
    assert again.code == 0, again.err


def test_what_has_no_weights_in_4_bits_is_refused_in_one_line(
    models: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(*more: str | Path, device: str = "rtx-4090") -> Ended:
        words = ("--data", images, "--out", tmp_path / "run", "--device", device, "--precision", "w4a16")
        return command(capsys, "compress", tiny_checkpoint(tmp_path), *words, *more)

    assert "--recover needs integers; leave it out, or --precision w4a16" in ended("--recover", "9").refusal()
    assert "leave it out, or --precision w4a16" in ended("--reconstruct").refusal()
    line = ended(device="x86-avx2").refusal()
    assert "--precision w4a16: x86-avx2 has no native w4a16; these devices have: a100-sxm-80gb" in line
    assert not (tmp_path / "run").exists()


@for_a_gpu_elsewhere
def test_a_network_without_matrices_that_fit_is_refused_with_the_reason(
    models: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trained(models, images, "transformer", 1)
    words = ("--model", "matrices:transformer", "--data", images, "--calibration-count", "8", "--out", tmp_path / "run")
    line = command(capsys, "compress", checkpoint, *W4A16, *words).refusal()
    assert "executes no layer of this network on weights in 4 bits in tensorrt-rtx" in line
    assert "(qkv: blocks of 128 weights do not divide its 32 inputs)" in line


@pytest.mark.engine
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_transformer_with_learned_places_runs_on_integers_here(
    runtime: str, models: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, run = trained(models, images, "transformer", 60), tmp_path / "run"
    more = ("--model", "matrices:transformer", "--runtime", runtime, "--no-reconstruct", "--calibration-count", "64")
    ended = compress(capsys, checkpoint, images, run, *more)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    report = read_json(run / "report.json")
    assert report["audit"]["executed"].get("int8", 0) >= 5
    assert report["audit"]["mismatches"] == []
    assert report["quality"]["engine"]["mean"] > 15


@pytest.mark.usefixtures("no_gpu")
@needs_compiler
@pytest.mark.parametrize(
    ("precision", "device"), [("int8", "h100-sxm"), ("fp8", "h100-sxm"), ("int8", "a100-sxm-80gb"), ("fp8", "rtx-4090")]
)
def test_torch_on_a_gpu_is_planned_with_matrix_products_alone_in_8_bits(
    precision: str, device: str, models: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trained(models, images, "transformer", 1)
    words = ("--model", "matrices:transformer", "--data", images, "--calibration-count", "8", "--out", tmp_path / "run")
    more = ("--device", device, "--runtime", "torch", "--precision", precision)
    planned = command(capsys, "compress", checkpoint, *words, *more, "--dry-run")
    assert planned.code == 0, planned.err
    computed = {"int8": "on integers", "fp8": "in fp8"}[precision]
    assert f"5 of 6 layers would run {computed}" in planned.out
    told = [line.partition(" MACs  ") for line in planned.out.splitlines() if " MACs  " in line]
    assert {left.split()[0]: right.split()[0] for left, _, right in told} == {
        "patches": "float", "qkv": "w8a8", "projection": "w8a8", "feed_forward.1": "w8a8", "feed_forward.3": "w8a8",
        "head": "w8a8",
    }  # fmt: skip
    line = command(capsys, "compress", checkpoint, *words, *more).refusal(5)
    assert "so build it on such a machine with a torch that has CUDA" in line
    assert f"({device}) and there is no GPU here that torch can use" in line


def compile_for_this_processor(path: Path, package: Path, *, float_precision: FloatPrecision, **_: object) -> None:
    """A package with the kernels of a GPU, which processors have as well."""
    network = OnnxNetwork(path, float_precision, on_gpu=True).eval()
    write_bytes(package, compile_network(network, float_precision, device="cpu", name=path.name))


@pytest.mark.long
@needs_compiler
@pytest.mark.engine
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_the_whole_job_of_a_gpu_with_its_kernels_on_this_processor(
    precision: str,
    models: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch_compile, "compile_file", compile_for_this_processor)
    monkeypatch.setattr(torch_compile, "capability_of", lambda device: None)
    checkpoint, run = trained(models, images, "transformer", 60), tmp_path / "run"
    more = ("--model", "matrices:transformer", "--runtime", "torch", "--precision", precision, "--device", "h100-sxm")
    ended = compress(capsys, checkpoint, images, run, *more, "--no-reconstruct", "--calibration-count", "64")
    assert ended.code == 0, ended.err
    report = read_json(run / "report.json")
    assert report["audit"]["planned"] == report["audit"]["executed"] == {precision: 5, "fp16": 1}
    assert report["audit"]["mismatches"] == []
    assert abs(report["quality"]["torch_engine_gap"]) < 0.5
    assert report["quality"]["engine"]["mean"] > 15


@needs_gpu
@needs_compiler
@pytest.mark.engine
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_transformer_on_the_gpu_that_is_here_multiplies_in_8_bits(
    precision: str, models: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = {"int8": "w8a8", "fp8": "fp8"}[precision]
    fitting = [p.id for p in list_profiles() if p.arch.isa == GPU and rule in {r.id for r in p.rules("torch")}]
    if not fitting:
        pytest.skip(f"no profile with {precision} in torch is of {GPU}")
    checkpoint, run = trained(models, images, "transformer", 60), tmp_path / "run"
    more = ("--model", "matrices:transformer", "--runtime", "torch", "--precision", precision, "--device", fitting[0])
    ended = compress(capsys, checkpoint, images, run, *more, "--no-reconstruct", "--calibration-count", "64")
    assert ended.code == 0, ended.err
    report = read_json(run / "report.json")
    assert report["audit"]["planned"] == report["audit"]["executed"] == {precision: 5, "fp16": 1}
    assert report["quality"]["engine"]["mean"] > 15
    assert report["latency"]["baseline"] == "torch fp32"
