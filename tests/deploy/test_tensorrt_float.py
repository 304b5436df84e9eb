"""TensorRT-RTX engines whose float part is fp16 or bf16, built for several GPU architectures and audited."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError, VerificationError
from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes
from compress.nm_pattern import Sparsity
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import Granularity, QuantFormat
from deploy.audit import Audit, audit
from deploy.engine import FloatPrecision, Runtime, ShapeRange
from deploy.engines import build_engine, load_engine, read_spec
from deploy.engines.tensorrt_engine import precision_of
from deploy.engines.tensorrt_record import BuildRecord, BuiltLayer
from deploy.onnx_export import export_float, export_quantized
from deploy.onnx_float import convert
from deploy.onnx_sparsity import verify_nm
from hw_profiles import DeviceProfile, load_profile
from workloads.loading import load_checkpoint

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'bitwright[tensorrt-rtx]'")
pytestmark = pytest.mark.engine

SIGNED = QuantFormat(bits=8, granularity=Granularity.TENSOR, symmetric=True, signed=True)
FP16, BF16 = FloatPrecision.FP16, FloatPrecision.BF16
SHAPES = ShapeRange.around((1, 3, 24, 32), 8)


def device_of(isa: str) -> DeviceProfile:
    """A profile of the catalogue with another architecture; Turing has no 2:4 kernels."""
    known = load_profile("rtx-3060")
    features = () if isa == "sm_75" else known.arch.features
    return known.model_copy(update={"arch": known.arch.model_copy(update={"isa": isa, "features": features})})


def built(path: Path, folder: Path, plan: Plan, isa: str, precision: FloatPrecision = FP16) -> Audit:
    device = device_of(isa)
    build_engine(
        path, folder, runtime=Runtime.TENSORRT_RTX, profile=device.id, device=device, shapes=SHAPES,
        float_precision=precision,
    )  # fmt: skip
    return audit(load_engine(folder, 1, device=device), path, plan)


def float_plan(module: nn.Module, example: Tensor, precision: FloatPrecision) -> Plan:
    return Plan(
        architecture="any", device="any", runtime="tensorrt-rtx", float_precision=precision.value,
        placement=Placement.INPUTS, layers={name: LayerPlan() for name, _ in layer_nodes(capture(module, example))},
    )  # fmt: skip


@pytest.fixture(scope="module")
def mixed(quantize, network: nn.Module) -> CompressedModel:
    return quantize(network, Placement.INPUTS, activation=SIGNED, float_layers=("head",), float_precision="fp16")


@pytest.fixture(scope="module")
def file(mixed: CompressedModel, inputs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixed") / "net.onnx"
    export_quantized(mixed, inputs[:1], path, quantize_bias=False)
    return path


@pytest.mark.parametrize("isa", ["sm_80", "sm_86", "sm_89", "sm_120"])
def test_integer_layers_are_integers_and_the_rest_is_fp16(
    isa: str, mixed: CompressedModel, file: Path, tmp_path: Path
) -> None:
    result = built(file, tmp_path, mixed.plan, isa)
    result.require()
    assert result.executed == {"fp16": 1, "int8": 3}
    spec = read_spec(tmp_path)
    assert (spec.float_precision, spec.onnx, spec.artefact) == (FP16, "net.fp16.onnx", "net.engine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["build.json", "engine.json", "net.engine", "net.fp16.onnx"]
    layers = BuildRecord.read(tmp_path, spec.artefact_sha256, spec.record_sha256).layers
    assert {"Half", "Int8"} <= {kind for layer in layers for kind in layer.inputs}


def test_turing_runs_all_of_it_in_fp16_and_the_audit_says_so(
    mixed: CompressedModel, file: Path, tmp_path: Path
) -> None:
    result = built(file, tmp_path, mixed.plan, "sm_75")
    assert result.executed == {"fp16": 4}
    with pytest.raises(VerificationError, match="3 of 4 layers did not execute as planned in tensorrt-rtx: body"):
        result.require()


def test_bf16_is_built_from_ampere_on(mixed: CompressedModel, file: Path, tmp_path: Path) -> None:
    plan = mixed.plan.model_copy(update={"float_precision": "bf16"})
    for isa in ("sm_80", "sm_86"):
        result = built(file, tmp_path / isa, plan, isa, BF16)
        result.require()
        assert result.executed == {"bf16": 1, "int8": 3}
    with pytest.raises(UsageError, match=r"cannot build net\.bf16\.onnx: .*model contains HW-specific datatypes"):
        built(file, tmp_path / "turing", plan, "sm_75", BF16)


def test_weights_that_do_not_fit_are_refused_because_the_builder_would_round_them(
    network: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    large = type(network)().eval()
    large.load_state_dict({n: v * 1e6 if n == "tail.weight" else v for n, v in network.state_dict().items()})
    export_float(capture(large, inputs[:1]), inputs[:1], tmp_path / "net.onnx")
    plan = float_plan(large, inputs[:1], FP16)
    with pytest.raises(UsageError, match=r"fp16 cannot hold .*: tail: tail\.weight: .* is beyond 65504"):
        built(tmp_path / "net.onnx", tmp_path / "e", plan, "sm_89")
    assert not (tmp_path / "e").exists()

    # fp32 between casts is no way out: the builder takes the casts away and runs the layer in fp16.
    export_float(capture(network, inputs[:1]), inputs[:1], tmp_path / "net.onnx")
    short = convert(onnx.load(tmp_path / "net.onnx"), FP16)
    at, tail = next((index, node) for index, node in enumerate(short.graph.node) if node.name == "tail")
    for tensor in short.graph.initializer:
        if tensor.name in tail.input:
            exact = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(exact, tensor.name))
    given, made = tail.input[0], tail.output[0]
    tail.input[0], tail.output[0] = "given.fp32", "made.fp32"
    short.graph.node.insert(at + 1, helper.make_node("Cast", ["made.fp32"], [made], "back", to=TensorProto.FLOAT16))
    short.graph.node.insert(at, helper.make_node("Cast", [given], ["given.fp32"], "there", to=TensorProto.FLOAT))
    del short.graph.value_info[:]
    onnx.checker.check_model(short, full_check=True)
    onnx.save(short, tmp_path / "cast.onnx")
    result = built(tmp_path / "cast.onnx", tmp_path / "cast", plan, "sm_89", FloatPrecision.FP32)
    assert {layer.layer: layer.executed for layer in result.layers}["tail"] == "fp16"


def test_two_of_four_with_integers_and_fp16(quantize, network: nn.Module, inputs: Tensor, tmp_path: Path) -> None:
    pruned = {name: value.clone() for name, value in network.state_dict().items()}
    for name in ("body.weight", "tail.weight"):
        smallest = pruned[name].abs().unflatten(1, (-1, 4)).argsort(dim=2)[:, :, :2]
        pruned[name].unflatten(1, (-1, 4)).scatter_(2, smallest, 0.0)
    sparse = type(network)().eval()
    sparse.load_state_dict(pruned)
    model = quantize(sparse, Placement.INPUTS, activation=SIGNED, float_layers=("tail",), float_precision="fp16")
    pattern = Sparsity.parse("2:4")
    for name in ("body", "body#2", "tail"):
        model.plan.layers[name] = model.plan.layers[name].model_copy(update={"sparsity": pattern})
    path = tmp_path / "net.onnx"
    export_quantized(model, inputs[:1], path, quantize_bias=False)
    for isa, precision in (("sm_80", FP16), ("sm_120", FP16), ("sm_89", BF16)):
        folder = tmp_path / isa
        plan = model.plan.model_copy(update={"float_precision": precision.value})
        result = built(path, folder, plan, isa, precision)
        result.require()
        assert result.executed == {"int8": 3, precision.value: 1}
        spec = read_spec(folder)
        assert BuildRecord.read(folder, spec.artefact_sha256, spec.record_sha256).sparse_weights
        assert all(found.holds for found in verify_nm(folder / spec.onnx, dict(plan.sparse_layers)))


def test_rfdn_on_integers_with_the_rest_in_fp16_and_all_in_fp16(quantize, data: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(data / "checkpoints" / "rfdn_x4.pth")
    crops = loaded.workload.calibration(data / "sr" / "test" / "Set5", 1, 24, 0)
    model = quantize(loaded.module, Placement.INPUTS, activation=SIGNED, crops=crops, float_precision="fp16")
    export_quantized(model, crops[:1], tmp_path / "int8.onnx", quantize_bias=False)
    integers = built(tmp_path / "int8.onnx", tmp_path / "int8", model.plan, "sm_120")
    integers.require()
    assert integers.executed == {"int8": 64}

    export_float(capture(loaded.module, crops[:1]), crops[:1], tmp_path / "float.onnx")
    plan = float_plan(loaded.module, crops[:1], FP16)
    floats = built(tmp_path / "float.onnx", tmp_path / "sm_89", plan, "sm_89")
    floats.require()
    assert floats.executed == {"fp16": 64}
    file = onnx.load(tmp_path / "sm_89" / "float.fp16.onnx")
    assert file.ByteSize() < 0.6 * (tmp_path / "float.onnx").stat().st_size


def test_precisions_are_read_from_what_a_layer_multiplies() -> None:
    def layer(kind: str, inputs: list[str], constants: list[str], name: str = "n") -> str:
        given = {"name": name, "kind": kind, "outputs": ("Half",), "tactic": "", "origins": ()}
        return precision_of(BuiltLayer.model_validate({**given, "inputs": inputs, "constants": constants}))

    assert layer("correlation", ["Half"], ["Half", "Float", "Float", "Half"]) == "fp16"
    assert layer("correlation", ["Half", "Half"], ["Float", "Float", "Half"]) == "fp16"
    assert layer("correlation", ["Float"], ["Float", "Float", "Float"]) == "fp32"
    assert layer("correlation", ["Int8"], ["Int8", "Float", "Float"]) == "int8"
    assert layer("correlation", ["Half"], ["Int8", "Float", "Float"]) == "fp16+int8"
    assert layer("runtime_fusion", ["Half", "Half"], ["Half", "Half"], "__myl_CorrMulMax_myl0_6") == "fp16"
    assert layer("runtime_fusion", ["Half"], ["Int4", "Half"], "__myl_ReplCastMulCastFc_myl0_2") == "w4a16"
    assert layer("kgen", ["Float"], ["Half"]) == "fp32"


def test_weights_of_the_mixed_network_are_what_they_were(mixed: CompressedModel, file: Path) -> None:
    held = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}
    assert torch.equal(torch.from_numpy(held["tail.weight.integers"].copy()), mixed.weights["tail.weight"].integers)
