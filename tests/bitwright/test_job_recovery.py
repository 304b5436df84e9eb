"""`bitwright compress --recover`: the stage runs, survives a kill, and never gives a worse network to the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitwright.foundation.errors import UsageError
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from bitwright.runs.recovery import FOLDER, RECOVERED, recovered, settings_of
from bitwright.runs.request import CompressRequest
from bitwright.runs.stages import nearest, reconstructed
from compress.compressed import CompressedModel
from compress.recovery.settings import Arithmetic
from tests.bitwright.job_helpers import DEVICE, command, compress, read_json, some_photos, tiny_checkpoint, tiny_request


@pytest.mark.engine
def test_whole_job_with_recovery_reports_it(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, photos, out = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos"), tmp_path / "run"
    ended = compress(capsys, net, photos, out, "--recover", "6")
    assert ended.code == 0, ended.err
    steps = read_json(out / "report.json")["plan"]["steps"] if "plan" in read_json(out / "report.json") else []
    assert "6 steps of recovery training" in (out / "report.json").read_text(), steps
    assert not (out / FOLDER).exists()


def test_stage_improves_held_out_quality_and_hands_its_model_on(data: Path, tmp_path: Path) -> None:
    given = tiny_request(data, tmp_path, recover=30)
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        nearest(job)
        reconstructed(job)
        recovered(job)
        values = run.values("recovered")
        assert values["drop"] <= run.values("nearest")["drop"]
        assert values["model"] == RECOVERED
        model = CompressedModel.load(run.path / RECOVERED, job.graph)
        reference = run.values("nearest")["float_quality"]
        assert reference - job.evaluate(model.simulate()) == pytest.approx(values["drop"], abs=1e-9)


def test_settings_of_the_training_are_those_of_the_request(data: Path, tmp_path: Path) -> None:
    given = tiny_request(data, tmp_path, recover=3, arithmetic="bf16", truth=0.5)
    with RunFolder.open(given) as run:
        found = settings_of(Job.open(given, run))
    assert found is not None
    assert (found.steps, found.arithmetic, found.truth_weight) == (3, Arithmetic.BF16, 0.5)
    with pytest.raises(UsageError, match="self_distillation softens labels; give them a weight too"):
        CompressRequest.model_validate({**given.model_dump(), "truth": 0.0, "self_distillation": 0.5})
    past = given.model_copy(update={"self_distillation": 0.5, "out": tmp_path / "past"})
    with RunFolder.open(past) as run, pytest.raises(UsageError, match="this network makes pictures"):
        Job.open(past, run)


def test_recovery_is_off_by_default_and_takes_one_length(data: Path, tmp_path: Path) -> None:
    given = tiny_request(data, tmp_path)
    with RunFolder.open(given) as run:
        assert settings_of(Job.open(given, run)) is None
    with pytest.raises(UsageError, match="give one of them"):
        CompressRequest.model_validate({**given.model_dump(), "recover": 5, "recover_minutes": 1.0})
    with pytest.raises(UsageError, match="--recover"):
        CompressRequest.model_validate({**given.model_dump(), "recover": 0})


@pytest.mark.engine
@pytest.mark.parametrize(
    "masks",
    [
        pytest.param((), marks=pytest.mark.long, id="dense"),
        pytest.param(("--sparsity", "1:4", "--sparsity-method", "sr_ste"), id="sparse"),
    ],
)
def test_two_processes_train_one_job(
    data: Path, tmp_path: Path, masks: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    net, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos")
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    quick = ("--calibration-count", "8", "--calibration-size", "32", "--no-reconstruct", "--measure-seconds", "0.1")
    words = ["compress", net, "--device", DEVICE, "--data", photos, "--recover", "6", *quick, *masks, "--out"]
    alone = command(capsys, *words, tmp_path / "alone")
    assert alone.code == 0, alone.err
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "bitwright", *map(str, words), str(tmp_path / "two")], env=environment, cwd=tmp_path,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    drops, stages = {}, ("sparse", "recovered") if masks else ("recovered",)
    for name, out in (("alone", alone.out), ("two", done.stdout)):
        assert out.count("report.html") == 1
        lines = map(json.loads, (tmp_path / name / "journal.jsonl").read_text().splitlines())
        drops[name] = {e["stage"]: e["values"]["drop"] for e in lines if e["stage"] in stages}
    for stage in stages:
        assert drops["two"][stage] == pytest.approx(drops["alone"][stage], abs=1e-3), stage
