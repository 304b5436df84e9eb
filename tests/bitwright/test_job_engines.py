"""The job on real networks in each runtime: torch and engine agree, and what was planned int8 ran int8."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bitwright.job_helpers import compress, read_json


@pytest.mark.engine
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_torch_and_engine_agree_on_set5(
    runtime: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set5 = data / "sr" / "test" / "Set5"
    more = ("--eval", set5, "--runtime", runtime, "--no-reconstruct", "--tolerance", "0.02")
    ended = compress(capsys, data / "checkpoints" / "espcn_x2.pth", set5, tmp_path / "run", *more)
    assert ended.code == 0, ended.err
    report = read_json(tmp_path / "run" / "report.json")
    quality = report["quality"]
    assert len(quality["engine"]["per_image"]) == 5
    assert abs(quality["torch"]["mean"] - quality["engine"]["mean"]) <= 0.02
    assert report["audit"]["mismatches"] == []
    assert report["audit"]["planned"]["int8"] >= 3


@pytest.mark.engine
def test_a_layer_without_an_integer_kernel_is_left_in_float_and_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # OpenVINO has no integer kernel for FSRCNN's 9x9 transposed convolution to one channel.
    set5 = data / "sr" / "test" / "Set5"
    more = ("--eval", set5, "--runtime", "openvino", "--no-reconstruct", "--set", "tolerance=0.1")
    ended = compress(capsys, data / "checkpoints" / "fsrcnn_x2.pth", set5, tmp_path / "run", *more)
    assert ended.code == 0, ended.err
    report = read_json(tmp_path / "run" / "report.json")
    last = next(layer for layer in report["layers"] if layer["name"] == "last_part")
    assert last["planned"] == last["executed"] != "int8"
    assert any("last_part" in warning for warning in report["warnings"])
    assert report["audit"]["executed"]["int8"] == 7
    assert report["audit"]["mismatches"] == []


@pytest.mark.engine
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_classifier_runs_on_integers(
    runtime: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data / "classification" / "cifar10"
    checkpoint = data / "classification" / "checkpoints" / "resnet20_cifar10.pth"
    more = ("--eval", images, "--runtime", runtime, "--no-reconstruct", "--calibration-count", "64")
    ended = compress(capsys, checkpoint, images, tmp_path / "run", *more)
    assert ended.code == 0, ended.err
    report = read_json(tmp_path / "run" / "report.json")
    assert report["quality"]["float"]["mean"] == pytest.approx(92.30, abs=0.03)
    assert report["quality"]["drop"] < 0.5
    assert report["audit"]["executed"] == {"int8": 20}
