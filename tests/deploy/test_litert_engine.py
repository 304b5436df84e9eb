"""The LiteRT engine: shapes, threads, stamp, and what it executes; see `test_trained_networks` too."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from bitwright.foundation.errors import MissingPackageError, UsageError, VerificationError
from bitwright.foundation.progress import reporting_to
from compress.compressed import CompressedModel
from compress.plan import Placement
from compress.quantizers import QuantFormat
from deploy.audit import Audit, audit
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import build_engine, load_engine
from deploy.engines.litert_engine import LiteRtEngine
from deploy.onnx_export import export_quantized
from tests.listener import Listener

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'bitwright[edge]'")
LITERT = Runtime.LITERT


def built(path: Path, folder: Path, shape: tuple[int, int, int, int] | None = None, threads: int = 1) -> LiteRtEngine:
    build_engine(path, folder, runtime=LITERT, profile="any", input_shape=shape)
    engine = load_engine(folder, threads)
    assert isinstance(engine, LiteRtEngine)
    return engine


def audited(model: CompressedModel, example: Tensor, folder: Path) -> Audit:
    path = folder / "model.onnx"
    export_quantized(model, example, path)
    return audit(built(path, folder), path, model.plan)


def test_the_artefact_is_a_file_for_the_shape_that_is_asked_for(quantized_file: Path, tmp_path: Path) -> None:
    spec = build_engine(quantized_file, tmp_path, runtime=LITERT, profile="any", input_shape=(1, 3, 20, 28))
    assert (spec.artefact, spec.source) == ("quantized.tflite", "quantized.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["engine.json", "quantized.onnx", "quantized.tflite"]
    assert (tmp_path / spec.artefact).read_bytes()[4:8] == b"TFL3"
    engine = load_engine(tmp_path, 1)
    assert engine.file_for((1, 3, 20, 28)) == (tmp_path / spec.artefact).read_bytes()
    assert engine.file_for((1, 3, 8, 8)) != engine.file_for((1, 3, 20, 28))


def test_an_onnx_file_that_the_artefact_was_not_made_from_is_refused(
    quantized_file: Path, float_file: Path, tmp_path: Path
) -> None:
    engine = built(quantized_file, tmp_path, (1, 3, 24, 32))
    engine.run(np.zeros((1, 3, 24, 32), np.float32))
    (tmp_path / quantized_file.name).write_bytes(float_file.read_bytes())
    with pytest.raises(UsageError, match=r"is not what quantized\.tflite was compiled from; rebuild"):
        engine.run(np.zeros((1, 3, 8, 8), np.float32))


def test_the_executed_layers_are_integers_that_xnnpack_runs(quantized_file: Path, tmp_path: Path) -> None:
    nodes = built(quantized_file, tmp_path).executed_nodes()
    assert {node.kernel for node in nodes if node.op == "CONV_2D"} == {"XNNPACK CONV_2D"}
    assert all(node.kernel.startswith("XNNPACK ") for node in nodes)
    assert {node.precision for node in nodes} == {"int8", "fp32"}


def test_a_kernel_that_xnnpack_lacks_is_told(tmp_path: Path, quantize, inputs: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Upsample(scale_factor=3, mode="nearest")).eval()
    path = tmp_path / "model.onnx"
    export_quantized(quantize(network, Placement.EVERYTHING), inputs[:1], path)
    told = Listener()
    with reporting_to(told):
        nodes = built(path, tmp_path).executed_nodes()
    assert [node.op for node in nodes if node.kernel.startswith("builtin")] == ["RESIZE_NEAREST_NEIGHBOR"]
    assert told.notes == ["litert: XNNPACK does not run 1 operators (RESIZE_NEAREST_NEIGHBOR); slower kernels do"]


def test_layers_whose_output_stays_real_fall_to_float_and_are_named(
    quantize, network: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    result = audited(quantize(network, Placement.INPUTS), inputs[:1], tmp_path)
    # What a sum, a leaky ReLU and a shuffle at the end read is not quantised.
    assert [layer.layer for layer in result.mismatches] == ["head", "body", "body#2", "tail"]
    with pytest.raises(VerificationError, match=r"4 of 4 .* body#2: planned int8, executed fp32 by XNNPACK CONV_2D"):
        result.require()


def test_a_weight_with_a_zero_point_falls_to_float_and_is_named(
    quantize, network: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    model = quantize(network, Placement.EVERYTHING)
    uneven = QuantFormat(bits=8, granularity="channel", symmetric=False, signed=False)
    planted = quantize(network, Placement.EVERYTHING, weight=uneven)
    model.weights["tail.weight"] = planted.weights["tail.weight"]
    result = audited(model, inputs[:1], tmp_path)
    assert [layer.layer for layer in result.mismatches] == ["tail"]


@pytest.mark.parametrize("bits", [4, 2])
def test_narrow_weights_run_as_int8(bits: int, quantize, network: nn.Module, inputs: Tensor, tmp_path: Path) -> None:
    narrow = QuantFormat(bits=bits, granularity="channel", symmetric=True, signed=True)
    model = quantize(network, Placement.EVERYTHING, weight=narrow)
    audited(model, inputs[:1], tmp_path).require()
    difference = np.abs(load_engine(tmp_path, 1).run(inputs.numpy()) - model.simulate()(inputs).numpy())
    assert difference.max() < 1.01 * max(float(params.scale) for params in model.activations.values())


def test_signed_activations_run_on_integers(quantize, network: nn.Module, inputs: Tensor, tmp_path: Path) -> None:
    signed = QuantFormat(bits=8, granularity="tensor", symmetric=False, signed=True)
    audited(quantize(network, Placement.EVERYTHING, activation=signed), inputs[:1], tmp_path).require()


def test_threads_are_those_that_were_asked_for(float_file: Path, tmp_path: Path) -> None:
    def started(threads: int) -> int:
        before = len(list(Path("/proc/self/task").iterdir()))
        engine = built(float_file, tmp_path, (1, 3, 64, 64), threads)
        engine.run(np.zeros((1, 3, 64, 64), np.float32))
        return len(list(Path("/proc/self/task").iterdir())) - before

    if not Path("/proc/self/task").is_dir():
        pytest.skip("the threads of a process are counted on Linux only")
    assert [started(threads) for threads in (1, 3)] == [0, 2]


def test_bf16_and_a_missing_package_are_one_line(
    float_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "engine"
    with pytest.raises(UsageError, match="LiteRT has no bf16 kernels"):
        build_engine(float_file, folder, runtime=LITERT, profile="any", float_precision=FloatPrecision.BF16)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'bitwright\[edge\]'") as caught:
        build_engine(float_file, folder, runtime=LITERT, profile="any")
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_it_tells_no_time_for_each_node(float_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="litert tells no time per node"):
        built(float_file, tmp_path).time_calls(np.zeros((1, 3, 8, 8), np.float32), warm_up=0, runs=1, blocks=1)
