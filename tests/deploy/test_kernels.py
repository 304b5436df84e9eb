from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.compressed import CompressedModel
from compress.graph import capture
from compress.layer_table import LayerTable
from compress.plan import Placement
from deploy.audit import audit
from deploy.engine import Engine, FloatPrecision, Runtime
from deploy.engines import build_engine, load_engine
from deploy.engines.openvino_profile import block_means
from deploy.kernels import executed_kernels
from deploy.onnx_export import export_float, export_quantized
from deploy.profiling import profile_engine, profile_kernels
from deploy.profiling.timing import BLOCKS, REPLICAS
from tests.deploy.runtimes import TELL_TIMES

SHAPE = (1, 3, 24, 32)
runtimes = pytest.mark.parametrize("runtime", TELL_TIMES)


@pytest.fixture(scope="module")
def mixed_model(quantize: object, network: object) -> CompressedModel:
    assert callable(quantize)
    model = quantize(network, Placement.INPUTS_OUTPUTS, float_layers=("body#2",))
    assert isinstance(model, CompressedModel)
    return model


@pytest.fixture(scope="module")
def mixed_file(mixed_model: CompressedModel, inputs: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixed") / "mixed.onnx"
    export_quantized(mixed_model, inputs[:1], path)
    return path


def built(file: Path, folder: Path, runtime: Runtime, precision: FloatPrecision = FloatPrecision.FP32) -> Engine:
    build_engine(file, folder, runtime=runtime, profile="any", float_precision=precision, input_shape=SHAPE)
    return load_engine(folder, threads=1)


@runtimes
def test_kernels_hold_every_layer_and_every_multiplication_once(
    runtime: Runtime, mixed_model: CompressedModel, mixed_file: Path, inputs: Tensor, tmp_path: Path
) -> None:
    kernels = executed_kernels(built(mixed_file, tmp_path, runtime), SHAPE)
    table = LayerTable.from_graph(mixed_model.graph, inputs[:1])
    assert sum(kernel.macs for kernel in kernels) == table.macs > 0
    computing = [kernel for kernel in kernels if kernel.layers]
    assert [kernel.layers for kernel in computing] == [(row.name,) for row in table.rows]
    for kernel, row in zip(computing, table.rows, strict=True):
        assert (kernel.window, kernel.stride, kernel.groups) == (row.kernel, row.stride, row.groups)
        assert (kernel.macs, kernel.weight_elements) == (row.macs, row.weight_elements)
        assert kernel.inputs[0].shape == row.input_shape
        assert kernel.outputs[0].shape == row.output_shape
    assert kernels[0].inputs[0].shape == SHAPE or not kernels[0].layers
    assert kernels[-1].outputs[0].shape == (1, 3, 48, 64)


@runtimes
def test_precision_of_each_layer_is_what_the_audit_says(
    runtime: Runtime, mixed_model: CompressedModel, mixed_file: Path, tmp_path: Path
) -> None:
    engine = built(mixed_file, tmp_path, runtime)
    executed = {layer: kernel.precision for kernel in executed_kernels(engine, SHAPE) for layer in kernel.layers}
    audited = audit(engine, mixed_file, mixed_model.plan)
    assert executed == {layer.layer: layer.executed for layer in audited.layers}
    assert executed["body#2"] == "fp32"
    assert executed["body"] == "int8"


def test_tensors_between_openvino_kernels_have_their_executed_types(mixed_file: Path, tmp_path: Path) -> None:
    kernels = executed_kernels(built(mixed_file, tmp_path, Runtime.OPENVINO, FloatPrecision.BF16), SHAPE)
    by_layer = {layer: kernel for kernel in kernels for layer in kernel.layers}
    assert by_layer["head"].inputs[0].dtype == "int8"
    assert by_layer["body#2"].precision == "bf16"
    assert by_layer["body#2"].inputs[0].dtype == "bf16"
    assert by_layer["body#2"].inputs[0].layout == "acdb"
    assert by_layer["head"].fused == ("QuantizeLinear",)
    boundaries = [k for k in kernels if not k.layers and {t.dtype for t in k.inputs} != {t.dtype for t in k.outputs}]
    assert boundaries, "a mixed plan has conversions"
    assert all(t.dtype == "fp32" for t in (kernels[0].inputs[0], kernels[-1].outputs[0]))


class _Enlarge(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.conv = mode, nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.conv(x), scale_factor=2, mode=self.mode)


@runtimes
def test_a_nearest_and_a_bilinear_resize_are_different_kernels(runtime: Runtime, tmp_path: Path) -> None:
    found = {}
    for mode in ("nearest", "bilinear"):
        export_float(capture(_Enlarge(mode).eval(), torch.rand(SHAPE)), torch.rand(SHAPE), tmp_path / f"{mode}.onnx")
        kernels = executed_kernels(built(tmp_path / f"{mode}.onnx", tmp_path / mode, runtime), SHAPE)
        (found[mode],) = (k for k in kernels if k.op in {"Interpolate", "Resize", "Upsample"})
        assert all(kernel.mode == "" for kernel in kernels if kernel is not found[mode])
    assert (found["nearest"].mode, found["bilinear"].mode) == ("nearest", "linear")
    assert found["nearest"].key != found["bilinear"].key


@runtimes
def test_batch_counts_in_the_multiplications(runtime: Runtime, float_file: Path, tmp_path: Path) -> None:
    engine = built(float_file, tmp_path, runtime)
    one, three = (sum(k.macs for k in executed_kernels(engine, (n, 3, 24, 32))) for n in (1, 3))
    assert three == 3 * one > 0


@runtimes
def test_profile_times_the_kernels_that_are_executed(runtime: Runtime, quantized_file: Path, tmp_path: Path) -> None:
    engine = built(quantized_file, tmp_path, runtime)
    timed = profile_kernels(tmp_path, SHAPE, seconds=0.2)
    assert [kernel.key for kernel, _ in timed] == [kernel.key for kernel in executed_kernels(engine, SHAPE)]
    assert all(len(samples) == REPLICAS * BLOCKS and min(samples) > 0 for _, samples in timed)


def test_blocks_take_the_warm_up_out_of_the_counters_mean(float_file: Path, tmp_path: Path) -> None:
    engine = built(float_file, tmp_path, Runtime.OPENVINO)
    big = np.zeros((1, 3, 256, 256), dtype=np.float32)
    compiled = engine._session.compile(big.shape, profiled=True)
    request = compiled.create_infer_request()
    started = time.perf_counter()
    means = list(block_means(request, big, warm_up=2, runs=5, blocks=3))
    spent_ms = (time.perf_counter() - started) * 1e3
    total = {info.node_name: info.real_time.total_seconds() * 1e3 * 17 for info in request.profiling_info}
    assert len(means) == 3
    timed_ms = 5 * sum(sum(mean.values()) for mean in means)
    assert 0 < timed_ms < spent_ms
    # What the blocks leave out of all 17 inferences is the warm-up, which is never negative.
    assert all(5 * sum(mean[name] for mean in means) < total[name] + 17 * 2e-3 for name in means[0])


def test_profile_tells_the_whole_latency_beside_the_kernels(float_file: Path, tmp_path: Path) -> None:
    built(float_file, tmp_path, Runtime.OPENVINO)
    times = profile_engine(tmp_path, SHAPE, seconds=0.2)
    assert len(times.whole_ms) >= 16
    assert sum(times.kernel_ms) / np.median(times.whole_ms) == pytest.approx(times.kernels_share)
    assert times.peak_rss_bytes is not None
    assert times.peak_rss_bytes > 10 << 20
