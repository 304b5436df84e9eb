"""The job for a GPU that is not here: the engine is built and audited, and nothing is claimed of running it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bitwright.runs.built import build_audited
from bitwright.runs.reopen import compressed_network, reopened
from compress.plan import Plan
from deploy.engines import read_spec
from search.layer_sensitivity import restricted
from tests.bitwright.job_helpers import command, compress, read_json, some_photos, tiny_checkpoint

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'bitwright[tensorrt-rtx]'")
pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("no_gpu")]

DEVICE = ("--device", "rtx-4090")


def test_an_engine_for_a_gpu_that_is_not_here_is_built_audited_and_not_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos, run = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos"), tmp_path / "run"
    more = ("--no-reconstruct", "--max-drop", "50", "--sparsity", "2:4", *DEVICE)
    ended = compress(capsys, checkpoint, photos, run, *more)
    assert ended.code == 0, ended.err
    report = read_json(run / "report.json")
    baseline = read_spec(run / "float")
    assert (baseline.runtime.value, baseline.float_precision.value) == ("tensorrt-rtx", "fp32")
    assert (baseline.compute_capability, baseline.artefact) == ("8.9", "float.engine")
    assert report["quality"] is None
    assert report["latency"] is None
    assert report["limits"] == {"max_drop_db": 50.0, "reached": None}
    assert report["runtime"]["name"] == "tensorrt-rtx"
    assert report["runtime"]["float_precision"] == "fp16"
    assert (run / "engine" / "model.fp16.onnx").is_file()
    assert report["audit"]["executed"] == report["audit"]["planned"]
    assert report["audit"]["executed"]["int8"] >= 2
    statement = "built for NVIDIA GeForce RTX 4090 and audited, but neither run nor timed: it needs an NVIDIA GPU of"
    assert [statement in warning for warning in report["warnings"]].count(True) == 1
    assert "the builder told nothing of layers that it found eligible or picked" in report["sparsity"]["effect"]
    shown = " ".join(ended.out.split())
    assert "Limit of 50 dB not checked: the engine was not run" in shown
    assert "built in" in shown
    assert "needs model.engine " in shown
    assert report["needs"]["files"]["model.engine"] == report["size"]["bytes"]
    assert report["needs"]["packages"][0]["name"] == "tensorrt-rtx"
    assert "executed" not in shown
    assert "Audit passed" not in (run / "report.html").read_text()
    assert (run / "engine" / "model.engine").stat().st_size == report["size"]["bytes"]

    again = compress(capsys, checkpoint, photos, run, *more, "--resume")
    assert again.code == 0, again.err
    needed = "model.engine cannot run here: it needs an NVIDIA GPU of compute capability 8.9 (rtx-4090)"
    for words in (("verify", run), ("measure", run, "--seconds", "0.2")):
        assert needed in command(capsys, *words).refusal(5)

    with reopened(run) as job:
        model = compressed_network(job)
        layer = model.plan.quantized_layers[1]
        with torch.no_grad():
            job.balanced.get_parameter(f"{layer}.weight").mul_(1e7)
        planted = restricted(model, model.plan.with_float({layer}, "planted"), job.balanced)
        assert planted.plan.float_precision == "fp16"
        built = build_audited(job, planted, tmp_path / "planted")
    assert built.model.plan.float_precision == Plan.load(tmp_path / "planted" / "plan.json").float_precision == "bf16"
    assert built.audit.mismatches == ()
    assert built.audit.executed["bf16"] >= 1


def test_what_takes_running_is_refused_before_any_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos")
    curve = command(capsys, "curve", checkpoint, *DEVICE, "--data", photos, "--out", tmp_path / "curve")
    assert "a curve times every engine: it needs an NVIDIA GPU of compute capability 8.9" in curve.refusal(5)
    profile = command(capsys, "profile", checkpoint, *DEVICE, "--out", tmp_path / "table.jsonl")
    assert "tensorrt-rtx tells no time for each kernel" in profile.refusal(2)


def test_hopper_names_the_runtime_that_is_missing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    checkpoint, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos")
    ended = compress(capsys, checkpoint, photos, tmp_path / "run", "--device", "h100-sxm")
    line = ended.refusal(2)
    missing = "tensorrt cannot be imported (import of tensorrt halted; None in sys.modules)"
    assert f"{missing}; install it with: pip install 'tensorrt>=11'" in line
    assert "--extra-index-url https://pypi.nvidia.com" in line
    assert line.endswith(", or take --runtime torch --precision fp16; h100-sxm does not name TensorRT-RTX")
    wrong = compress(
        capsys, checkpoint, photos, tmp_path / "other", "--device", "h100-sxm", "--runtime", "tensorrt-rtx"
    )
    assert "--runtime tensorrt-rtx: h100-sxm has no such runtime; did you mean tensorrt?" in wrong.refusal(2)
