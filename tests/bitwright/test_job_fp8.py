"""The job in fp8, for a GPU that is not here, and what it refuses."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import onnx
import pytest

from compress.plan import Plan
from tests.bitwright.job_helpers import Ended, command, for_a_gpu_elsewhere, read_json, some_photos, tiny_checkpoint

FP8 = ("--device", "rtx-4090", "--precision", "fp8")
QUICK = ("--calibration-count", "8", "--calibration-size", "32", "--input-size", "64x64")


@for_a_gpu_elsewhere
def test_a_trained_network_is_compressed_to_fp8(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, photos = data / "checkpoints" / "espcn_x2.pth", some_photos(data, tmp_path / "photos")
    run = tmp_path / "run"
    words = ("compress", checkpoint, *FP8, "--data", photos, *QUICK, "--max-drop", "1.5", "--out", run)
    planned = command(capsys, *words, "--dry-run")
    assert "3 of 3 layers would run in fp8, 100.0 % of" in planned.out
    ended = command(capsys, *words)
    assert ended.code == 0, ended.err
    assert "fp8, rounded to nearest: drop" in ended.err
    assert "fp8 is rounded to nearest: no reconstruction" in ended.err
    report = read_json(run / "report.json")
    # With 4 significant bits everywhere it loses 5 dB: all but one layer go back to float.
    assert report["audit"]["planned"] == report["audit"]["executed"] == {"fp8": 1, "fp16": 2}
    assert [layer["weight_bits"] for layer in report["layers"]] == [16, 8, 16]
    steps = report["plan_search"]
    assert [(step["quantized_layers"], step["chosen"]) for step in steps] == [(3, False), (2, False), (1, True)]
    assert steps[0]["drop_db"] > 3 > steps[1]["drop_db"] > 0.75 >= steps[2]["drop_db"] > 0.1
    assert Plan.load(run / "plan.json").fp8
    assert (run / "engine" / "model.fp16.onnx").is_file()
    kinds = {t.data_type for t in onnx.load(run / "model.onnx").graph.initializer if t.name.endswith(".integers")}
    assert kinds == {onnx.TensorProto.FLOAT8E4M3FN}
    page = (run / "report.html").read_text()
    assert "p-fp8" in page
    assert "int8 layers" not in page
    again = command(capsys, *words, "--resume")
    assert again.code == 0, again.err


def test_what_does_not_work_in_fp8_is_refused_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 1)

    def ended(*more: str, verb: str = "compress", device: str = "rtx-4090", precision: str = "fp8") -> Ended:
        words = (verb, checkpoint, "--device", device, "--data", photos, "--out", tmp_path / "run")
        return command(capsys, *words, "--set", f"precision={precision}", *more)

    for more in (("--recover", "9"), ("--recover-minutes", "1"), ("--sparsity", "2:4"), ("--narrow", "1"),
                 ("--iterations", "9")):  # fmt: skip
        assert f"{more[0]} needs integers; leave it out, or --precision fp8" in ended(*more).refusal()
    assert "--reconstruct learns how integers are rounded; leave it out" in ended("--reconstruct").refusal()
    devices = "these devices have: h100-sxm, rtx-4090, rtx-5090"
    assert f"--precision fp8: rtx-3060 has no native fp8; {devices}" in ended(device="rtx-3060").refusal()
    x86 = ended("--runtime", "openvino", device="x86-avx2").refusal()
    assert f"--precision fp8: x86-avx2 with openvino has no native fp8; {devices}" in x86
    assert "a curve's plans are of int8 and float" in ended(verb="curve").refusal()
    assert (
        "--precision: 'fp4' is not valid; expected 'int8', 'fp8', 'w4a16', 'fp16' or 'bf16'"
        in ended(precision="fp4").refusal()
    )
    assert not (tmp_path / "run").exists()


@for_a_gpu_elsewhere
def test_a_layer_without_an_fp8_kernel_is_named_and_left_in_float(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = files("hw_profiles.catalogue").joinpath("rtx-4090.yaml").read_text()
    wrong = known.replace("ops: [conv, linear, matmul]", "ops: [conv, convtranspose, linear, matmul]")
    assert wrong != known
    allowed = wrong.replace(", float_ops: [convtranspose]", "")
    assert allowed != wrong
    (tmp_path / "wrong.yaml").write_text(allowed)
    words = ("--data", some_photos(data, tmp_path / "photos"), *QUICK, "--out", tmp_path / "run")
    checkpoint = data / "checkpoints" / "fsrcnn_x2.pth"
    ended = command(capsys, "compress", checkpoint, "--device", tmp_path / "wrong.yaml", "--precision", "fp8", *words)
    assert ended.code == 0, ended.err
    report = read_json(tmp_path / "run" / "report.json")
    assert report["audit"]["planned"] == report["audit"]["executed"] == {"fp8": 7, "fp16": 1}
    (layer,) = [layer["name"] for layer in report["layers"] if layer["planned"] == "fp16"]
    assert f"{layer}: tensorrt-rtx has no fp8 kernel for it; left in float" in report["warnings"]
    assert [step["quantized_layers"] for step in report["plan_search"]] == [8, 7]
