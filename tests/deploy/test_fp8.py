"""Layers in fp8: the ONNX file, and the engines that TensorRT-RTX builds from it for several architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError, VerificationError
from compress.compressed import CompressedModel
from compress.plan import Placement
from compress.quantizers import FP8_ACTIVATIONS, FP8_WEIGHTS, Granularity, QuantFormat
from deploy.audit import audit
from deploy.engine import FloatPrecision, Runtime, ShapeRange
from deploy.engines import build_engine, load_engine
from deploy.onnx_export import export_for, export_quantized
from deploy.onnx_formats import verify_formats
from deploy.onnx_plan import plan_of
from hw_profiles import DeviceProfile, load_profile

SIGNED = QuantFormat(bits=8, granularity=Granularity.TENSOR, symmetric=True, signed=True)
RTX = Runtime.TENSORRT_RTX
DEVICE = "rtx-4090"
FLOAT8 = onnx.TensorProto.FLOAT8E4M3FN


@pytest.fixture(scope="module")
def fp8(quantize, network: nn.Module) -> CompressedModel:
    return quantize(network, Placement.INPUTS, weight=FP8_WEIGHTS, activation=FP8_ACTIVATIONS)


@pytest.fixture(scope="module")
def file(fp8: CompressedModel, inputs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp8") / "net.onnx"
    export_for(RTX, fp8, inputs[:1], path, quantize_bias=False)
    return path


def test_the_file_computes_what_the_simulation_computes(fp8: CompressedModel, file: Path, inputs: Tensor) -> None:
    with torch.no_grad():
        wanted, real = fp8.simulate()(inputs).numpy(), fp8.graph(inputs).numpy()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for executor in (session, ReferenceEvaluator(str(file))):
        found = executor.run(None, {"input": inputs.numpy()})
        # Of 9216 values some lie on a rounding boundary that sums in another order step over.
        assert float(np.quantile(abs(found[0] - wanted), 0.99)) < 1e-5
        assert float(abs(found[0] - wanted).max()) < 0.1 * float(abs(wanted - real).max())


def test_only_files_with_fp8_have_its_opset(quantize, network: nn.Module, inputs: Tensor, file: Path, tmp_path: Path):
    model = onnx.load(file)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [19]
    weights = {t.name: t.data_type for t in model.graph.initializer if t.name.endswith(".integers")}
    assert weights == {f"{name}.weight.integers": FLOAT8 for name in ("head", "body", "tail")}
    assert not [node for node in model.graph.node if node.op_type == "Clip"]
    plan = plan_of(model)
    assert plan is not None
    assert plan.fp8
    export_quantized(quantize(network, Placement.INPUTS, activation=SIGNED), inputs[:1], tmp_path / "int8.onnx")
    integers = onnx.load(tmp_path / "int8.onnx")
    assert [entry.version for entry in integers.opset_import if not entry.domain] == [18]
    assert '"encoding"' not in integers.metadata_props[0].value


def test_a_file_in_another_format_than_planned_is_found(
    quantize, fp8: CompressedModel, network: nn.Module, inputs: Tensor, file: Path, tmp_path: Path
) -> None:
    assert verify_formats(file, fp8.plan) == 4
    integers = quantize(network, Placement.INPUTS, activation=SIGNED)
    with pytest.raises(VerificationError, match=r"weight of layer head: it is float8_e4m3fn, planned 8 bits, signed"):
        verify_formats(file, integers.plan)
    export_quantized(integers, inputs[:1], tmp_path / "int8.onnx", quantize_bias=False)
    with pytest.raises(VerificationError, match="weight of layer head: it is int8, planned E4M3, by channel"):
        verify_formats(tmp_path / "int8.onnx", fp8.plan)
    broken = onnx.load(file)
    tensor = next(t for t in broken.graph.initializer if t.name == "body.weight.integers")
    tensor.raw_data = b"\x7f" + tensor.raw_data[1:]
    onnx.save(broken, tmp_path / "nan.onnx")
    with pytest.raises(VerificationError, match="weight of layer body: its values reach from nan to nan"):
        verify_formats(tmp_path / "nan.onnx", fp8.plan)


def test_runtimes_that_are_given_no_fp8_say_so(fp8: CompressedModel, inputs: Tensor, tmp_path: Path) -> None:
    for runtime in (Runtime.ONNXRUNTIME, Runtime.OPENVINO, Runtime.LITERT, Runtime.QONNX):
        with pytest.raises(UsageError, match=f"an engine of {runtime} works on integers, and layer head is in fp8"):
            export_for(runtime, fp8, inputs[:1], tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def device_of(isa: str) -> DeviceProfile:
    known = load_profile(DEVICE)
    return known.model_copy(update={"arch": known.arch.model_copy(update={"isa": isa})})


def build(path: Path, folder: Path, device: DeviceProfile, precision: FloatPrecision = FloatPrecision.FP32):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'bitwright[tensorrt-rtx]'")
    shapes = ShapeRange.around((1, 3, 24, 32), 8)
    build_engine(path, folder, runtime=RTX, profile=device.id, float_precision=precision, device=device, shapes=shapes)
    return load_engine(folder, 1, device=device)


@pytest.mark.engine
@pytest.mark.parametrize("isa", ["sm_89", "sm_120"])
@pytest.mark.parametrize("precision", [FloatPrecision.FP32, FloatPrecision.FP16])
def test_every_layer_is_built_in_fp8(
    isa: str, precision: FloatPrecision, fp8: CompressedModel, file: Path, tmp_path: Path
) -> None:
    plan = fp8.plan.model_copy(update={"float_precision": precision.value})
    result = audit(build(file, tmp_path, device_of(isa), precision), file, plan)
    result.require()
    assert result.planned == result.executed == {"fp8": 4}
    assert {layer.kernel for layer in result.layers} == {"correlation"}


@pytest.mark.engine
def test_layers_in_float_and_weights_with_one_scale_are_told_as_they_are(
    quantize, network: nn.Module, inputs: Tensor, fp8: CompressedModel, tmp_path: Path
) -> None:
    one_scale = {"weight": FP8_ACTIVATIONS, "activation": FP8_ACTIVATIONS}
    model = quantize(network, Placement.INPUTS, **one_scale, float_layers=("tail",))
    path = tmp_path / "mixed.onnx"
    export_for(RTX, model, inputs[:1], path, quantize_bias=False)
    engine = build(path, tmp_path / "mixed", load_profile(DEVICE))
    assert audit(engine, path, model.plan).executed == {"fp8": 3, "fp32": 1}
    (wrong,) = audit(engine, path, fp8.plan).mismatches
    assert (wrong.layer, wrong.planned, wrong.executed) == ("tail", "fp8", "fp32")
    assert "the form that tensorrt-rtx's fp8 kernels need" in wrong.reason


@pytest.mark.engine
def test_older_architectures_are_refused_in_one_line(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        build(file, tmp_path / "e", load_profile("rtx-3060"))
    assert str(caught.value) == (
        "fp8 needs compute capability 8.9 or higher, and rtx-3060 has 8.6; compress for it with --precision int8"
    )
    assert not (tmp_path / "e").exists()
