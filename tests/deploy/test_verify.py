from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError, VerificationError
from compress.plan import Placement
from deploy.engine import Engine, Runtime
from deploy.engines import build_engine, load_engine
from deploy.onnx_export import export_quantized
from deploy.verify import compare, engine_predict, verify
from tests.deploy.conftest import BuildOnce
from tests.deploy.runtimes import RUN_ON_CPU
from workloads.loading import load_checkpoint
from workloads.workload import LoadedModel, Sample

runtimes = pytest.mark.parametrize("runtime", RUN_ON_CPU)


@pytest.fixture(scope="module")
def espcn(data: Path) -> LoadedModel:
    return load_checkpoint(data / "checkpoints" / "espcn_x4.pth")


@pytest.fixture(scope="module")
def set5(data: Path, espcn: LoadedModel) -> list[Sample]:
    return list(espcn.workload.samples(data / "sr" / "test" / "Set5"))


@pytest.fixture(scope="module")
def compressed(data: Path, espcn: LoadedModel, quantize):
    crops = espcn.workload.calibration(data / "sr" / "train", 16, 48)
    return quantize(espcn.module, Placement.EVERYTHING, crops=crops)


@pytest.fixture(scope="module")
def simulated(compressed):
    return compressed.simulate()


@pytest.fixture(scope="module")
def onnx_file(compressed, espcn: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("espcn") / "espcn.onnx"
    export_quantized(compressed, espcn.workload.example_input(32, 32), path)
    return path


def engine_of(path: Path, runtime: Runtime, folder: Path) -> Engine:
    build_engine(path, folder, runtime=runtime, profile="any")
    return load_engine(folder, threads=1)


@runtimes
def test_engine_and_fake_quantised_torch_agree_on_set5(
    runtime: Runtime, espcn: LoadedModel, simulated, set5: list[Sample], onnx_file: Path, tmp_path: Path
) -> None:
    engine = engine_of(onnx_file, runtime, tmp_path)
    report = verify(simulated, engine, set5, espcn.workload)
    assert report.tolerance == 0.02
    assert abs(report.gap) <= 0.02
    assert report.gap == report.engine.mean - report.torch.mean
    assert len(report.engine.per_sample) == 5
    assert report.output_psnr_db is None or report.output_psnr_db > 55
    assert report.torch.mean == pytest.approx(espcn.workload.evaluate(simulated, set5).mean)


def test_differences_are_those_of_the_outputs(
    espcn: LoadedModel, set5: list[Sample], onnx_file: Path, tmp_path: Path
) -> None:
    engine = engine_of(onnx_file, Runtime.ONNXRUNTIME, tmp_path)
    report = compare(espcn.module, engine, set5, espcn.workload, tolerance=5.0)
    with torch.no_grad():
        expected = np.concatenate([espcn.module(s.input).numpy().ravel() for s in set5]).astype(np.float64)
    output = np.concatenate([engine.run(s.input.numpy()).ravel() for s in set5]).astype(np.float64)
    error = np.abs(output - expected)
    assert report.max_difference == pytest.approx(error.max())
    assert report.mean_difference == pytest.approx(error.mean())
    spread = expected.max() - expected.min()
    assert report.output_psnr_db == pytest.approx(10 * np.log10(spread**2 / np.mean(error**2)))
    assert report.passed


def test_a_gap_beyond_the_tolerance_is_an_error_with_exit_code_4(
    espcn: LoadedModel, simulated, set5: list[Sample], onnx_file: Path, tmp_path: Path
) -> None:
    engine = engine_of(onnx_file, Runtime.ONNXRUNTIME, tmp_path)

    def brighter(x: Tensor) -> Tensor:
        return simulated(x) + 0.05 * espcn.workload.io.value_max

    assert not compare(brighter, engine, set5[:1], espcn.workload).passed
    with pytest.raises(VerificationError, match=r"PSNR-Y of the engine is .* a gap of \+.* more than 0\.02") as caught:
        verify(brighter, engine, set5[:1], espcn.workload)
    assert caught.value.exit_code == 4


def test_another_output_shape_is_an_error(
    espcn: LoadedModel, set5: list[Sample], onnx_file: Path, tmp_path: Path
) -> None:
    engine = engine_of(onnx_file, Runtime.ONNXRUNTIME, tmp_path)
    with pytest.raises(VerificationError, match=r"the engine gave .* where torch gave"):
        compare(lambda x: x, engine, set5[:1], espcn.workload)


def test_a_unit_without_known_tolerance_asks_for_one(
    espcn: LoadedModel, simulated, set5: list[Sample], onnx_file: Path, tmp_path: Path
) -> None:
    class Percentile(type(espcn.workload)):
        unit = "points"

    workload = Percentile(espcn.workload.io)
    engine = engine_of(onnx_file, Runtime.ONNXRUNTIME, tmp_path)
    with pytest.raises(UsageError, match="no tolerance is known for PSNR-Y in points"):
        compare(simulated, engine, set5[:1], workload)
    assert compare(simulated, engine, set5[:1], workload, tolerance=0.5).tolerance == 0.5


@runtimes
def test_engine_predict_takes_tensors_that_are_not_contiguous(
    runtime: Runtime, float_file: Path, network, inputs: Tensor, build_once: BuildOnce, tmp_path: Path
) -> None:
    build_once(float_file, runtime, tmp_path)
    predict = engine_predict(load_engine(tmp_path, threads=1))
    turned = inputs.transpose(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(predict(turned), network(turned), atol=2e-6, rtol=0)
