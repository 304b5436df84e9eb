from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError, VerificationError
from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8, Granularity, QuantFormat
from deploy.audit import Audit, audit
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import build_engine, load_engine
from deploy.onnx_export import export_float, export_quantized
from tests.deploy.conftest import BuildOnce
from tests.deploy.runtimes import RUN_ON_CPU
from workloads.loading import load_checkpoint

SIGNED_ACTIVATION = QuantFormat(bits=8, granularity=Granularity.TENSOR, symmetric=True, signed=True)
ASYMMETRIC_WEIGHT = QuantFormat(bits=8, granularity=Granularity.CHANNEL, symmetric=False, signed=False)

runtimes = pytest.mark.parametrize("runtime", RUN_ON_CPU)


def built(
    path: Path, plan: Plan, runtime: Runtime, folder: Path, precision: FloatPrecision = FloatPrecision.FP32
) -> Audit:
    build_engine(path, folder, runtime=runtime, profile="any", float_precision=precision)
    return audit(load_engine(folder, threads=1), path, plan)


def quantised(model: CompressedModel, example: Tensor, runtime: Runtime, folder: Path) -> Audit:
    path = folder / "model.onnx"
    export_quantized(model, example, path)
    return built(path, model.plan, runtime, folder)


@runtimes
def test_every_planned_layer_is_shown_to_run_on_integers(
    runtime: Runtime, model: CompressedModel, quantized_file: Path, build_once: BuildOnce, tmp_path: Path
) -> None:
    build_once(quantized_file, runtime, tmp_path)
    result = audit(load_engine(tmp_path, threads=1), quantized_file, model.plan)
    assert [(layer.layer, layer.executed) for layer in result.layers] == [
        ("head", "int8"), ("body", "int8"), ("body#2", "int8"), ("tail", "int8")
    ]  # fmt: skip
    assert all(layer.kernel for layer in result.layers)
    assert result.planned == result.executed == {"int8": 4}
    assert result.mismatches == ()
    result.require()
    assert Audit.model_validate_json(result.model_dump_json()) == result


def test_both_networks_of_an_engine_with_a_fixed_shape_are_audited(
    quantize, network: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    model = quantize(network, Placement.INPUTS)
    path = tmp_path / "model.onnx"
    export_quantized(model, inputs[:1], path)
    build_engine(path, tmp_path, runtime=Runtime.OPENVINO, profile="any", input_shape=(4, 3, 24, 32))
    engine = load_engine(tmp_path, threads=1)
    result = audit(engine, path, model.plan)
    assert result.executed == {"int8": 4}
    tails = [node for node in engine.executed_nodes() if node.op == "Convolution" and "tail" in node.origins]
    assert [node.precision for node in tails] == ["int8", "int8"]
    general = build_engine(path, tmp_path, runtime=Runtime.OPENVINO, profile="any")
    assert general.input_shape is None
    output = load_engine(tmp_path, threads=1).run(inputs.numpy())
    torch.testing.assert_close(
        torch.from_numpy(engine.run(inputs.numpy())), torch.from_numpy(output), atol=1e-5, rtol=0
    )


@runtimes
def test_layers_left_in_float_are_told_apart(
    runtime: Runtime, quantize, network: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    model = quantize(network, Placement.EVERYTHING, float_layers=("head",))
    result = quantised(model, inputs[:1], runtime, tmp_path)
    assert {layer.layer: layer.executed for layer in result.layers} == {
        "head": "fp32", "body": "int8", "body#2": "int8", "tail": "int8"
    }  # fmt: skip
    result.require()


def test_signed_activations_fall_to_float_in_onnxruntime_and_are_reported(
    quantize, network: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    model = quantize(network, Placement.EVERYTHING, activation=SIGNED_ACTIVATION)
    result = quantised(model, inputs[:1], Runtime.ONNXRUNTIME, tmp_path)
    assert result.planned == {"int8": 4}
    assert result.executed == {"fp32": 4}
    with pytest.raises(
        VerificationError, match=r"4 of 4 layers .* head: planned int8, executed fp32 by .*Conv"
    ) as caught:
        result.require()
    assert caught.value.exit_code == 4


def test_a_weight_with_a_zero_point_falls_to_float_in_openvino_and_is_reported(
    quantize, network: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    model = quantize(network, Placement.INPUTS)
    planted = quantize(network, Placement.INPUTS, weight=ASYMMETRIC_WEIGHT)
    model.weights["tail.weight"] = planted.weights["tail.weight"]
    result = quantised(model, inputs[:1], Runtime.OPENVINO, tmp_path)
    assert [layer.layer for layer in result.mismatches] == ["tail"]
    assert result.mismatches[0].kernel.endswith("f32")
    with pytest.raises(VerificationError, match=r"1 of 4 layers .* tail: planned int8, executed fp32") as caught:
        result.require()
    assert caught.value.exit_code == 4


def test_a_layer_without_integer_kernel_is_reported(quantize, inputs: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(16, 4, 4, 2, 1)).eval()
    model = quantize(network, Placement.EVERYTHING)
    ort = quantised(model, inputs[:1], Runtime.ONNXRUNTIME, tmp_path)
    assert {layer.layer: layer.executed for layer in ort.layers} == {"0": "int8", "2": "fp32"}
    assert [layer.layer for layer in ort.mismatches] == ["2"]
    quantised(model, inputs[:1], Runtime.OPENVINO, tmp_path).require()


@runtimes
def test_a_linear_layer_that_makes_the_output_is_found(
    runtime: Runtime, quantize, inputs: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), pool, nn.Linear(16, 10)).eval()
    model = quantize(network, Placement.EVERYTHING)
    result = quantised(model, inputs[:1], runtime, tmp_path)
    assert {layer.layer: layer.executed for layer in result.layers} == {"0": "int8", "3": "int8"}
    path = tmp_path / "float.onnx"
    export_float(capture(network, inputs[:1]), inputs[:1], path)
    plan = model.plan.with_float({"0", "3"}, "float baseline")
    assert built(path, plan, runtime, tmp_path).executed == {"fp32": 2}


@pytest.mark.parametrize(("planned", "executed"), [("fp32", FloatPrecision.BF16), ("bf16", FloatPrecision.FP32)])
def test_float_precision_must_be_the_planned_one(
    planned: str, executed: FloatPrecision, quantize, network: nn.Module, float_file: Path, tmp_path: Path
) -> None:
    layers = ("head", "body", "body#2", "tail")
    plan = quantize(network, Placement.INPUTS, float_layers=layers, float_precision=planned).plan
    result = built(float_file, plan, Runtime.OPENVINO, tmp_path, executed)
    assert [(m.planned, m.executed) for m in result.mismatches] == [(planned, executed.value)] * 4
    assert built(float_file, plan, Runtime.OPENVINO, tmp_path, FloatPrecision(planned)).mismatches == ()


@runtimes
def test_a_layer_that_is_not_found_is_never_assumed_to_be_fine(
    runtime: Runtime,
    model: CompressedModel,
    quantized_file: Path,
    inputs: Tensor,
    build_once: BuildOnce,
    tmp_path: Path,
) -> None:
    extra = {**model.plan.layers, "ghost": LayerPlan(weight=W8, activation=A8)}
    build_once(quantized_file, runtime, tmp_path)
    haunted = model.plan.model_copy(update={"layers": extra})
    result = audit(load_engine(tmp_path, threads=1), quantized_file, haunted)
    assert [(m.layer, m.executed) for m in result.mismatches] == [("ghost", "unknown")]
    assert "no such layer" in result.mismatches[0].reason

    other = tmp_path / "other.onnx"
    export_float(capture(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), inputs[:1]), inputs[:1], other)
    build_engine(other, tmp_path, runtime=runtime, profile="any")
    result = audit(load_engine(tmp_path, threads=1), quantized_file, model.plan)
    assert result.executed == {"unknown": 4}
    with pytest.raises(VerificationError, match=r"no node that .* executes"):
        result.require()


def test_layers_that_the_plan_lacks_are_listed(model: CompressedModel, quantized_file: Path, tmp_path: Path) -> None:
    layers = {name: layer for name, layer in model.plan.layers.items() if name != "tail"}
    plan = model.plan.model_copy(update={"layers": layers})
    assert built(quantized_file, plan, Runtime.OPENVINO, tmp_path).unplanned == ("tail",)


def test_a_file_that_is_not_onnx_is_refused(model: CompressedModel, quantized_file: Path, tmp_path: Path) -> None:
    build_engine(quantized_file, tmp_path, runtime=Runtime.ONNXRUNTIME, profile="any")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\xff" * 64)
    with pytest.raises(UsageError, match=r"bad\.onnx cannot be read as ONNX"):
        audit(load_engine(tmp_path, threads=1), bad, model.plan)


@pytest.fixture(scope="module")
def rfdn(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """The file of RFDN in float, and its plan."""
    loaded = load_checkpoint(data / "checkpoints" / "rfdn_x4.pth")
    example = loaded.workload.example_input(32, 40)
    graph = capture(loaded.module, example)
    path = tmp_path_factory.mktemp("rfdn") / "rfdn.onnx"
    export_float(graph, example, path)
    plan = Plan(
        architecture="rfdn", device="any", runtime="any", float_precision="fp32", placement=Placement.INPUTS,
        layers={name: LayerPlan() for name, _ in layer_nodes(graph)},
    )  # fmt: skip
    return path, plan


@pytest.mark.parametrize(
    "runtime", [pytest.param(r, marks=pytest.mark.long if r is Runtime.TORCH else ()) for r in RUN_ON_CPU]
)
def test_rfdn_float_layers_are_all_found(runtime: Runtime, rfdn: tuple[Path, Plan], tmp_path: Path) -> None:
    """64 convolutions, 8 of them behind fusions that rename nodes and weights."""
    result = built(*rfdn, runtime, tmp_path)
    assert result.executed == {"fp32": 64}
    assert result.unplanned == ()
    result.require()
