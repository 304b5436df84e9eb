"""The job for FPGA flows: a QONNX file with its audit and its quality, and no time that was not measured."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.bitwright.job_helpers import command, compress, read_json, some_photos, tiny_checkpoint

pytest.importorskip("qonnx", reason="qonnx is not installed: pip install 'bitwright[fpga]'")
pytestmark = pytest.mark.engine

DEVICE = ("--device", "fpga-dataflow")
NOT_TIMED = "the time of the reference executor that runs it here says nothing of the device"


def test_a_run_is_audited_and_evaluated_and_not_timed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos, run = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos"), tmp_path / "run"
    more = ("--no-reconstruct", "--max-drop", "50", *DEVICE)
    ended = compress(capsys, checkpoint, photos, run, *more)
    assert ended.code == 0, ended.err
    report = read_json(run / "report.json")
    assert report["latency"] is None
    assert report["runtime"]["name"] == "qonnx"
    assert report["audit"]["planned"] == report["audit"]["executed"] == {"int8": 3}
    assert report["quality"]["torch_engine_gap"] < 0.02
    assert report["limits"] == {"max_drop_db": 50.0, "reached": True}
    assert [layer["estimated_ms"] for layer in report["layers"]] == [None] * 3
    assert [NOT_TIMED in warning for warning in report["warnings"]].count(True) == 1
    assert report["next_command"] == f"bitwright verify {run}"
    shown = " ".join(ended.out.split())
    assert "p50 (ms) │ n/a │ n/a" in shown
    assert "Audit passed: each layer executed as planned" in shown
    page = (run / "report.html").read_text()
    assert "was not timed (speed-up n/a)" in page
    assert {node.op_type for node in onnx.load(run / "model.onnx").graph.node} >= {"Quant", "Conv"}
    assert (run / "engine" / "model.onnx").read_bytes() == (run / "model.onnx").read_bytes()

    again = compress(capsys, checkpoint, photos, run, *more, "--resume")
    assert again.code == 0, again.err
    verified = command(capsys, "verify", run)
    assert verified.code == 0, verified.err
    assert "executed as planned: 3 int8 (qonnx" in verified.out
    for words in (("measure", run, "--seconds", "0.2"), ("bundle", run, "--out", tmp_path / "run.pyz")):
        told = command(capsys, *words).refusal()
        assert told.startswith(
            "error: qonnx engines are not timed: a QONNX file is for FPGA flows such as FINN and hls4ml"
        )
        assert told.endswith(NOT_TIMED)
    assert not (tmp_path / "run.pyz").exists()


def test_a_curve_and_a_latency_table_are_refused_before_any_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 2)
    curve = command(capsys, "curve", checkpoint, *DEVICE, "--data", photos, "--out", tmp_path / "curve")
    assert curve.refusal().endswith(NOT_TIMED)
    profile = command(capsys, "profile", checkpoint, *DEVICE, "--out", tmp_path / "table.jsonl")
    assert profile.refusal().endswith(NOT_TIMED)
    assert not (tmp_path / "table.jsonl").exists()


def test_the_network_of_any_run_can_be_exported(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, photos, run = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 2), tmp_path / "run"
    ended = compress(capsys, checkpoint, photos, run, "--no-reconstruct", "--max-drop", "50")
    assert ended.code == 0, ended.err
    written = command(capsys, "export", run, "--format", "qonnx")
    assert written.code == 0, written.err
    file = run / "export.qonnx.onnx"
    assert written.out.strip() == str(file)
    assert "Quant" in {node.op_type for node in onnx.load(file).graph.node}
    told = command(capsys, "export", checkpoint, "--format", "qonnx").refusal()
    assert "qonnx is for compressed networks; give the folder of a run" in told


def test_a_supernet_gives_narrow_layers_that_are_audited_by_their_width(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos, run = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 4), tmp_path / "run"
    small = ("--steps", "2", "--set", "batch=2", "--set", "patch=16", "--bits", "2,4,8", "--calibration-count", "8")
    more = ("--samples", "8", "--generations", "2")
    ended = command(capsys, "search", "eqnet", checkpoint, *DEVICE, "--data", photos, "--out", run, *small, *more)
    assert ended.code == 0, ended.err
    folder = run / "devices" / "fpga-dataflow"
    widths = read_json(folder / "device.json")["widths"].values()
    expected = [f"int{w}" if w == a else f"w{w}a{a}" for w, a in widths]
    layers = read_json(folder / "audit.json")["layers"]
    assert [layer["executed"] for layer in layers] == [layer["planned"] for layer in layers] == expected
    assert set(expected) > {"int8"}
    assert read_json(folder / "device.json")["integer_layers"] == 3
    assert "Quant" in {node.op_type for node in onnx.load(folder / "engine" / "model.onnx").graph.node}
