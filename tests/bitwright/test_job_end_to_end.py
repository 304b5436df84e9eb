"""One whole job: its report agrees with the files beside it, and the other verbs work on its run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitwright.api import Result
from bitwright.cli.app import run
from bitwright.runs.built import build_audited
from bitwright.runs.reopen import compressed_network, reopened
from bitwright.runs.reporting import load_report
from compress.plan import Plan
from deploy.engines import read_spec
from deploy.latency import ComparisonResult
from deploy.power_rails import find_rails
from deploy.verify import engine_predict
from hw_profiles.latency_table import LatencyTable
from search.layer_sensitivity import restricted
from tests.bitwright.job_helpers import DEVICE, QUICK, command, compress, read_json, some_photos, tiny_checkpoint
from tests.deploy.aarch64 import arm_python
from tests.deploy.adb_machine import adb_device
from tests.deploy.bundle_helpers import start
from tests.deploy.far_machine import HOSTILE, start_server
from workloads.loading import load_checkpoint

Capture = pytest.CaptureFixture[str]
SECTIONS = {
    "device": {"id"},
    "runtime": {"name"},
    "quality": {"metric", "float", "torch", "engine"},
    "latency": {"engine", "float", "speedup"},
    "audit": {"planned", "executed", "mismatches"},
    "size": {"bytes"},
    "bitops": {"planned"},
    "environment": set(),
}


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    net, photos = tiny_checkpoint(folder), some_photos(data, folder / "photos")
    words = ["compress", str(net), "--device", DEVICE, "--data", str(photos), "--eval", str(photos)]
    assert run([*words, "--out", str(folder / "run"), *QUICK]) == 0
    return folder / "run"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_report_holds_every_field(finished: Path) -> None:
    report = read_json(finished / "report.json")
    for section, fields in SECTIONS.items():
        assert fields <= set(report[section]), section
    for side in ("engine", "float"):
        assert {"median_ms", "p90_ms", "n"} <= set(report["latency"][side])
        assert report["latency"][side]["n"] == len(report["latency"][side]["samples_ms"])
    speedup = report["latency"]["speedup"]
    assert 0 < speedup["low"] <= speedup["ratio"] <= speedup["high"]
    assert report["command"][:2] == ["bitwright", "compress"]
    assert "<script src=" not in (finished / "report.html").read_text()


def test_the_report_agrees_with_the_files(finished: Path) -> None:
    report = read_json(finished / "report.json")
    plan = Plan.load(finished / "plan.json")
    assert report["size"]["bytes"] == (finished / "engine" / "model.onnx").stat().st_size
    assert report["audit"]["planned"] == {"int8": len(plan.quantized_layers)} == report["audit"]["executed"]
    names = {path.name for path in (finished.parent / "photos").iterdir()}
    for side in ("float", "torch", "engine"):
        per_image = report["quality"][side]["per_image"]
        assert set(per_image) == names
        assert report["quality"][side]["mean"] == pytest.approx(sum(per_image.values()) / len(names))


def test_quality_is_that_of_the_engine(finished: Path) -> None:
    workload = load_checkpoint(finished.parent / "plain.safetensors").workload
    result = Result(finished, load_report(finished))
    with torch.no_grad():
        found = workload.evaluate(engine_predict(result.engine()), workload.samples(finished.parent / "photos"))
    assert result.report.quality is not None
    assert found.mean == pytest.approx(result.report.quality.engine.mean, abs=1e-4)


def test_the_other_verbs(copy: Path, capsys: Capture) -> None:
    ended = command(capsys, "verify", copy)
    assert ended.code == 0, ended.err
    assert "executed as planned: 3 int8" in ended.out
    ended = command(capsys, "measure", copy, "--seconds", "0.1", "--input-size", "32x40", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["latency"]["input_shape"] == [1, 3, 32, 40]
    assert list((copy / "measurements").iterdir())
    (copy / "report.html").unlink()
    assert command(capsys, "report", copy).code == 0
    assert (copy / "report.html").is_file()
    ended = command(capsys, "export", copy)
    assert ended.code == 0, ended.err
    assert Path(ended.out.strip()).read_bytes() == (copy / "model.onnx").read_bytes()


def test_a_tampered_engine_fails_verification(copy: Path, capsys: Capture) -> None:
    artefact = copy / "engine" / "model.onnx"
    whole = bytearray(artefact.read_bytes())
    whole[len(whole) // 2] ^= 1
    artefact.write_bytes(whole)
    assert "model.onnx" in command(capsys, "verify", copy).refusal(4)


def test_an_allowed_drop_that_is_not_kept(data: Path, tmp_path: Path, capsys: Capture) -> None:
    bright, dark = some_photos(data, tmp_path / "bright"), tmp_path / "dark"
    dark.mkdir()
    for path in bright.iterdir():
        Image.open(path).convert("RGB").point(lambda grey: grey // 4).save(dark / path.name)
    # Ranges that were set on dark pictures cut the bright ones off, and nothing in the held-out ones tells.
    out, net = tmp_path / "run", data / "checkpoints" / "espcn_x2.pth"
    more = ("--eval", bright, "--no-reconstruct", "--max-drop", "3")
    ended = compress(capsys, net, dark, out, *more)
    assert "more than the allowed 3" in ended.refusal(3)
    report = read_json(out / "report.json")
    assert report["quality"]["drop"] > 3
    assert report["limits"]["reached"] is False
    assert (out / "engine" / "model.onnx").is_file()


def test_a_layer_that_runs_in_float_fails_verification(copy: Path, capsys: Capture) -> None:
    with reopened(copy) as job:
        model = compressed_network(job)
        layer = model.plan.quantized_layers[1]
        planted = restricted(model, model.plan.with_float({layer}, "planted"), job.balanced)
        # The plan stays as it was, and so does the stamp's form: only the engine's own graph can tell.
        built = build_audited(job, planted, copy.parent / "planted")
    assert built.audit.executed["int8"] == len(model.plan.quantized_layers) - 1
    for name in ("engine", "model.onnx"):
        shutil.move(copy / name, copy.parent / f"{name}.before")
        shutil.move(copy.parent / "planted" / name, copy / name)
    line = command(capsys, "verify", copy).refusal(4)
    assert f"1 of {len(model.plan.layers)} layers did not execute as planned" in line
    assert f"{layer}: planned int8, executed" in line


def test_a_bundle_is_measured_by_hand_and_taken_back(copy: Path, capsys: Capture, tmp_path: Path) -> None:
    name = f"{HOSTILE}.pyz"
    written = command(capsys, "bundle", copy, "--out", tmp_path / name, "--seconds", "0.1", "--input-size", "32x40")
    assert written.code == 0, written.err
    over = command(capsys, "bundle", copy, "--out", copy / "plan.json").refusal()
    assert "is a file that is no bundle; choose another --out" in over
    Plan.load(copy / "plan.json")
    assert start(sys.executable, tmp_path / name, tmp_path / "back").returncode == 0
    taken = command(capsys, "import", tmp_path / "back", "--json")
    assert taken.code == 0, taken.err
    summary = json.loads(taken.out)
    kept = ComparisonResult.model_validate_json(Path(summary["file"]).read_bytes())
    assert Path(summary["file"]).parent == copy / "measurements"
    assert Path(summary["file"]).name == f"1x3x32x40-1t-{kept.environment.fingerprint}.json"
    assert kept.elsewhere is not None
    assert summary["latency"]["engine"]["samples_ms"] == list(kept.measurement("engine").samples_ms)
    assert kept.measurement("engine").spec == read_spec(copy / "engine")
    assert kept.speedup("engine", "float").ratio == summary["latency"]["speedup"]["ratio"]


def test_times_are_added_to_a_latency_table(copy: Path, capsys: Capture, tmp_path: Path) -> None:
    table = tmp_path / "machine.jsonl"
    more = ("--seconds", "0.1", "--input-size", "32x32", "--table", table)
    for _ in range(2):
        timed = command(capsys, "measure", copy, *more, "--json")
        assert timed.code == 0, timed.err
    summary, spec = json.loads(timed.out), read_spec(copy / "engine")
    kept = ComparisonResult.model_validate_json(Path(summary["file"]).read_bytes())
    rows = {row.plan: row for row in LatencyTable.load(table).networks}
    assert len(table.read_text().splitlines()) == 4
    assert set(rows) == {f"int8-{spec.artefact_sha256[:8]}", f"fp32-{read_spec(copy / 'float').artefact_sha256[:8]}"}
    row = rows[f"int8-{spec.artefact_sha256[:8]}"]
    assert row.ms.p50 == pytest.approx(summary["latency"]["engine"]["median_ms"])
    assert (row.runtime, row.fingerprint) == (spec.runtime.value, kept.environment.fingerprint)
    assert (row.network, row.input_shape, row.kernels) == ("plain", (1, 3, 32, 32), ())


@pytest.mark.long  # The job of `test_job_arm` tells the same.
@pytest.mark.skipif(arm_python() is None, reason="there is no Arm machine: python tests/deploy/aarch64.py makes one")
def test_an_emulated_processor_tells_outputs_and_no_times(copy: Path, capsys: Capture, tmp_path: Path) -> None:
    size = ("--seconds", "0.1", "--input-size", "32x32")
    assert command(capsys, "bundle", copy, "--out", tmp_path / "x.pyz", *size).code == 0
    assert start(str(arm_python()), tmp_path / "x.pyz", tmp_path / "back").returncode == 0
    table = tmp_path / "arm.jsonl"
    assert "measured under emulation" in command(capsys, "import", tmp_path / "back", "--table", table).refusal()
    assert not table.exists()
    taken = command(capsys, "import", tmp_path / "back").out
    assert "emulated by qemu-aarch64: the outputs count, the times say nothing of a device" in taken
    assert "largest difference of the output there from the output here: engine" in taken
    assert "speed-up" not in taken
    assert "median" not in taken


def test_samples_are_refused_by_a_run_that_did_not_make_their_bundle(
    copy: Path, capsys: Capture, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    size = ("--seconds", "0.1", "--input-size", "32x32")
    assert command(capsys, "bundle", copy, "--out", tmp_path / "x.pyz", *size).code == 0
    assert start(sys.executable, tmp_path / "x.pyz", tmp_path / "back").returncode == 0
    told = command(capsys, "import", tmp_path / "back", "--run", other).refusal()
    assert "which was not made from" in told
    assert not (other / "measurements").exists()
    moved = copy.rename(tmp_path / "moved")
    told = command(capsys, "import", tmp_path / "back").refusal()
    assert "say where it is with --run" in told
    assert command(capsys, "import", tmp_path / "back", "--run", moved).code == 0
    assert len(list((moved / "measurements").iterdir())) == 1


def test_a_run_is_measured_over_ssh(copy: Path, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    server = start_server(tmp_path / "server")
    far = ("--on", server.address, "--ssh-config", server.config, "--python", sys.executable)
    place = ("--remote-folder", tmp_path / "there", "--seconds", "0.1", "--input-size", "32x40")
    try:
        measured = command(capsys, "measure", copy, *far, *place)
        assert measured.code == 0, measured.err
        [file] = (copy / "measurements").iterdir()
        kept = ComparisonResult.model_validate_json(file.read_bytes())
        assert kept.environment.fingerprint in measured.out
        assert f"measured on {kept.environment.cpu_model}" in measured.out
        assert kept.elsewhere is not None
        assert list((tmp_path / "there").iterdir()) == [], (
            "nothing is left there that the next call would take for its own"
        )
        again = command(capsys, "measure", copy, *far, *place)
        assert again.code == 0, again.err
        assert ComparisonResult.model_validate_json(file.read_bytes()) != kept, "it was measured anew"
    finally:
        server.stop()
    gone = command(capsys, "measure", copy, *far, *place)
    assert "cannot be reached" in gone.refusal(5)
    assert "give it" in command(capsys, "measure", copy, "--python", "python3").refusal()


def test_a_run_is_measured_over_adb(copy: Path, capsys: Capture, tmp_path: Path) -> None:
    brief = ("--remote-folder", tmp_path / "there", "--seconds", "0.1", "--input-size", "32x40")
    with adb_device() as device:
        words = ("measure", copy, "--on", device.address, "--python", sys.executable, *brief)
        measured = command(capsys, *words)
        assert measured.code == 0, measured.err
        [file] = (copy / "measurements").iterdir()
        kept = ComparisonResult.model_validate_json(file.read_bytes())
        assert f"measured on {kept.environment.cpu_model}" in measured.out
        assert kept.energy is None
        assert list((tmp_path / "there").iterdir()) == []
        if not find_rails():
            refused = command(capsys, *words, "--energy").refusal()
            assert f"{device.address}: the runner failed: energy cannot be measured on this machine" in refused
