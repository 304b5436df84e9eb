"""The torch engine on GPUs: half precision, the stamp of its GPU, and what is refused; on a GPU where there is one."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import DeviceError, UsageError
from compress.plan import Placement
from deploy.audit import audit
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import SPEC_FILE, build_engine, load_engine, read_spec
from deploy.engines.torch_nodes import executed_nodes
from deploy.gpu import without_tf32
from deploy.onnx_export import export_quantized
from hw_profiles import load_profile
from tests.deploy.gpus import device_here, with_gpu
from tests.marks import needs_compiler, needs_gpu

TORCH = Runtime.TORCH
FLOATS = (FloatPrecision.FP32, FloatPrecision.BF16, FloatPrecision.FP16)

pytestmark = needs_compiler


@pytest.fixture
def float_onnx(quantize, network: nn.Module, inputs: Tensor, tmp_path: Path):
    """The small network without integers, for each precision: its file and the plan."""

    def export(precision: FloatPrecision):
        layers = ("head", "body", "body#2", "tail")
        model = quantize(network, Placement.INPUTS, float_layers=layers, float_precision=precision.value)
        path = tmp_path / f"{precision}.onnx"
        export_quantized(model, inputs[:1], path)
        return path, model.plan

    return export


def test_half_precision_is_computed_as_such(float_onnx, network: nn.Module, inputs: Tensor, tmp_path: Path) -> None:
    path, plan = float_onnx(FloatPrecision.FP16)
    build_engine(path, tmp_path / "e", runtime=TORCH, profile="any", float_precision=FloatPrecision.FP16)
    engine = load_engine(tmp_path / "e", 1)
    result = audit(engine, path, plan)
    result.require()
    assert result.executed == {"fp16": 4}
    with torch.no_grad():
        expected = network(inputs).numpy()
    error = np.abs(engine.run(inputs.numpy()) - expected).max() / np.ptp(expected)
    # Ten bits of mantissa: far from fp32, and eight times as fine as bf16.
    assert 1e-5 < error < 2e-3
    with pytest.raises(UsageError, match="runs on the processor; CUDA graphs are for engines that run on a GPU"):
        engine.use_cuda_graph()


def test_compiling_takes_the_very_gpu(float_onnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = float_onnx(FloatPrecision.FP16)

    def refusal() -> str:
        with pytest.raises(DeviceError) as caught:
            build_engine(path, tmp_path / "e", runtime=TORCH, profile="h100-sxm", device=load_profile("h100-sxm"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "so build it on such a machine with a torch that has CUDA: it needs" in refusal()
    assert "9.0 (h100-sxm) and there is no GPU here that torch can use" in refusal()
    with_gpu(monkeypatch, 8, 9)
    assert "9.0 (h100-sxm) and the GPU here has 8.9; for this one, compress with a --device of compute" in refusal()
    assert not (tmp_path / "e").exists()


def test_integers_are_refused_on_a_gpu_with_what_to_choose(
    quantized_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu(monkeypatch, 9, 0)
    with pytest.raises(UsageError, match=r"no integer convolutions on GPUs.* choose --precision fp16 or bf16"):
        build_engine(quantized_file, tmp_path / "e", runtime=TORCH, profile="x", device=load_profile("h100-sxm"))


def test_a_package_for_another_gpu_is_refused_with_what_to_rebuild(
    float_onnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = float_onnx(FloatPrecision.FP32)
    folder = tmp_path / "e"
    build_engine(path, folder, runtime=TORCH, profile="any")
    package = folder / read_spec(folder).artefact
    retold(package, device="cuda", profile="as earlier versions wrote it")
    stamp = json.loads((folder / SPEC_FILE).read_text())
    stamp["artefact_sha256"] = hashlib.sha256(package.read_bytes()).hexdigest()
    stamp |= {"compute_capability": "9.0", "profile": "h100-sxm"}
    (folder / SPEC_FILE).write_text(json.dumps(stamp))
    x = np.zeros((1, 3, 24, 32), np.float32)
    with_gpu(monkeypatch, 8, 9)
    with pytest.raises(DeviceError, match=r"9\.0 \(h100-sxm\) and the GPU here has 8\.9; for this one, "):
        load_engine(folder, 1).run(x)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"9\.0 \(h100-sxm\) and there is no GPU here that torch can use"):
        load_engine(folder, 1).run(x)
    with_gpu(monkeypatch, 9, 0)
    assert load_engine(folder, 1).why_not_here() is None


def retold(package: Path, **changed: str) -> None:
    """Change what a package says of itself."""
    with zipfile.ZipFile(package) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in files if name.endswith("wrapper_metadata.json"))
    told = json.loads(files[name])
    told["bitwright"] = json.dumps(json.loads(told["bitwright"]) | changed)
    files[name] = json.dumps(told).encode()
    with zipfile.ZipFile(package, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def test_layers_are_found_in_source_for_a_gpu_where_triton_adds_their_biases() -> None:
    kinds = {
        "layer0_bias": "float16",
        "layer1_bias": "float16",
        "_frozen_param2": "float16",
        "_frozen_param3": "float16",
    }
    source = "".join(
        f'    constants_info_[{i}].name = "{name}";\n    constants_info_[{i}].dtype = cached_torch_dtype_{kind};\n'
        for i, (name, kind) in enumerate(kinds.items())
    )
    call = "    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_convolution({}, {}, nullptr, v0, 2, v1, 2, 0, 1, &buf1));\n"
    source += call.format("arg", "_frozen_param2")
    source += "    call_triton_poi_fused_relu_0(buf1, layer0_bias, 512L, this->device_idx_, stream, kernels, cubin);\n"
    source += call.format("buf1", "_frozen_param3")
    nodes = executed_nodes(source, ["head", "tail"])
    layers = [(node.name, node.op, node.precision) for node in nodes]
    assert layers == [
        ("head", "Convolution", "fp16"),
        ("triton_poi_fused_relu_0", "Loop", "unknown"),
        ("tail", "Convolution", "fp16"),
    ]


def tf32() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[(True, False), (False, True)])
def allowed(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    before = tf32()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_what_runs_without_tf32_leaves_it_as_it_was(allowed: tuple[bool, bool]) -> None:
    def fails() -> None:
        with without_tf32():
            assert tf32() == (False, False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert tf32() == allowed


@needs_gpu
@pytest.mark.engine
@pytest.mark.parametrize("precision", FLOATS)
def test_an_engine_on_a_gpu_computes_the_network_and_tells_its_stages(
    precision: FloatPrecision, float_onnx, network: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    path, plan = float_onnx(precision)
    device = device_here()
    build_engine(path, tmp_path / "e", runtime=TORCH, profile=device.id, device=device, float_precision=precision)
    result = audit(load_engine(tmp_path / "e", 1), path, plan)
    result.require()
    assert result.executed == {precision.value: 4}
    assert read_spec(tmp_path / "e").compute_capability == ".".join(map(str, torch.cuda.get_device_capability()))
    with torch.no_grad():
        expected = network(inputs).numpy()
    limit = {FloatPrecision.FP32: 1e-5, FloatPrecision.FP16: 3e-3, FloatPrecision.BF16: 3e-2}[precision]
    for graph in (False, True):
        engine = load_engine(tmp_path / "e", 1)
        if graph:
            engine.use_cuda_graph()
        for x, wanted in ((inputs, expected), (inputs.flip(0), expected[::-1]), (inputs[:1], expected[:1])):
            output = engine.run(x.numpy())
            assert np.abs(output - wanted).max() < limit * np.ptp(expected)
            stages = engine.gpu_stages_ms()
            assert stages is not None
            assert min(stages) > 0.0
