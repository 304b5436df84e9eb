"""The job on real networks in each runtime: torch and engine agree, and what was planned int8 ran int8."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hw_profiles.loading import CATALOGUE
from tests.bitwright.job_helpers import DEVICE, compress, read_json, some_labelled_images, some_photos


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


@pytest.fixture
def hopeful(tmp_path: Path) -> Path:
    """A profile that promises integer kernels for every transposed convolution, which there are not."""
    text = (CATALOGUE / f"{DEVICE}.yaml").read_text()
    assert "float_ops: [convtranspose, " in text
    path = tmp_path / "hopeful.yaml"
    changed = text.replace("float_ops: [convtranspose, ", "float_ops: [").replace(f"id: {DEVICE}", "id: hopeful")
    path.write_text(changed)
    return path


@pytest.mark.engine
@pytest.mark.parametrize("promised", [False, True])
def test_a_layer_without_an_integer_kernel_stays_in_float(
    promised: bool, hopeful: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # FSRCNN ends with a 9x9 transposed convolution from 56 channels to one.
    set5 = data / "sr" / "test" / "Set5"
    more = ("--eval", set5, "--runtime", "openvino", "--no-reconstruct", "--set", "tolerance=0.1")
    device = ("--device", hopeful) if promised else ()
    ended = compress(capsys, data / "checkpoints" / "fsrcnn_x2.pth", set5, tmp_path / "run", *more, *device)
    assert ended.code == 0, ended.err
    report = read_json(tmp_path / "run" / "report.json")
    last = next(layer for layer in report["layers"] if layer["name"] == "last_part")
    assert last["planned"] == last["executed"] != "int8"
    # What the profile knows is planned at once; what it gets wrong is found in the engine, planned anew and named.
    assert any("last_part" in warning for warning in report["warnings"]) is promised
    assert ("last_part: left in float" in ended.err) is promised
    assert report["audit"]["executed"]["int8"] == 7
    assert report["audit"]["mismatches"] == []


FACTORY = """
from torch import nn

def enlarge():
    return nn.Sequential(nn.ConvTranspose2d(3, 3, 9, stride=2, padding=4, output_padding=1))
"""


@pytest.mark.engine
def test_a_network_that_cannot_run_on_integers_at_all_ends_with_exit_code_4(
    hopeful: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "enlarging.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    network = torch.nn.ConvTranspose2d(3, 3, 9, stride=2, padding=4, output_padding=1)
    save_file({f"0.{name}": value for name, value in network.state_dict().items()}, tmp_path / "net.safetensors")
    photos = some_photos(data, tmp_path / "photos")
    more = ("--model", "enlarging:enlarge", "--runtime", "onnxruntime", "--no-reconstruct", "--device", hopeful)
    ended = compress(capsys, tmp_path / "net.safetensors", photos, tmp_path / "run", *more)
    line = ended.refusal(4)
    assert "1 of 1 layers did not execute as planned in onnxruntime: 0: planned int8, executed" in line
    report = read_json(tmp_path / "run" / "report.json")
    assert [mismatch["layer"] for mismatch in report["audit"]["mismatches"]] == ["0"]
    assert "Audit failed" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.engine
@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.long)])
def test_a_classifier_runs_on_integers(
    runtime: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = some_labelled_images(data, tmp_path / "cifar10", test=1000, train=1000)
    checkpoint = data / "classification" / "checkpoints" / "resnet20_cifar10.pth"
    more = ("--eval", images, "--runtime", runtime, "--no-reconstruct", "--calibration-count", "64")
    ended = compress(capsys, checkpoint, images, tmp_path / "run", *more)
    assert ended.code == 0, ended.err
    report = read_json(tmp_path / "run" / "report.json")
    assert report["quality"]["float"]["mean"] == pytest.approx(92.9, abs=0.03)
    assert report["quality"]["drop"] < 0.5
    assert report["audit"]["executed"] == {"int8": 20}
