"""`bitwright search eqnet` continued: for more devices, after one that failed; and what is told before training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.runs import eqnet_device
from bitwright.runs.eqnet_result import EngineLatency
from bitwright.runs.lock import FolderLock
from deploy.latency import ComparisonResult
from tests.bitwright.job_helpers import DEVICE, command, read_json, some_photos, tiny_checkpoint
from tests.marks import on_x86

QUICK = ("--steps", "2", "--set", "batch=2", "--set", "patch=16", "--calibration-count", "8")


def test_a_trained_supernet_takes_other_devices_and_one_that_failed_fails_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    words = ("search", "eqnet", tiny_checkpoint(tmp_path), "--data", some_photos(data, tmp_path / "photos", 4),
             "--out", run, "--bits", "8", *QUICK, "--device", "hexagon-htp-v73")  # fmt: skip
    legal = eqnet_device.illegal_layers
    monkeypatch.setattr(eqnet_device, "illegal_layers", lambda *_: ["convs.1: no rule"])
    for more in ((), ("--resume",)):
        assert "the plan is not legal there" in command(capsys, *words, *more).refusal(4)
    monkeypatch.setattr(eqnet_device, "illegal_layers", legal)
    state = (run / "supernet.safetensors").read_bytes()
    first = json.loads(command(capsys, *words, "--resume", "--json").out)["devices"]
    lock = FolderLock(run)
    lock.acquire()
    told = command(capsys, *words, "--resume", "--device", "ethos-u55-256").refusal()
    lock.release()
    assert "is in use by process" in told
    assert read_json(run / "request.json")["devices"] == ["hexagon-htp-v73"]
    ended = command(capsys, *words, "--resume", "--device", "ethos-u55-256", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)["devices"]
    assert [d["device"] for d in found] == ["hexagon-htp-v73", "ethos-u55-256"]
    assert found[0] == first[0]
    assert "hexagon-htp-v73: done before" in ended.err
    assert "ethos-u55-256: done before" not in ended.err
    assert (run / "supernet.safetensors").read_bytes() == state
    assert read_json(run / "request.json")["devices"] == ["hexagon-htp-v73", "ethos-u55-256"]


def test_a_device_without_a_width_of_the_supernet_is_told_before_the_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("search", "eqnet", tiny_checkpoint(tmp_path), "--data", some_photos(data, tmp_path / "photos", 4),
             "--out", tmp_path / "run", "--bits", "4,6", *QUICK, "--device", "hexagon-htp-v73")  # fmt: skip
    told = command(capsys, *words).refusal()
    assert "hexagon-htp-v73: no width is left for the weights of layer convs.1: it may have [4, 6]" in told
    assert "executes int8; give those with --bits" in told
    assert not (tmp_path / "run" / "supernet.safetensors").exists()


@on_x86
def test_a_plan_that_keeps_the_budget_is_not_lost_to_later_ones_that_miss_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seen = EngineLatency.of, []

    def first_in_time(timed: ComparisonResult) -> EngineLatency:
        if not any(timed is other for other in seen):
            seen.append(timed)
        return whole(timed).model_copy(update={"median_ms": 900.0 if timed is seen[0] else 2000.0})

    monkeypatch.setattr(EngineLatency, "of", first_in_time)
    words = ("search", "eqnet", tiny_checkpoint(tmp_path), "--data", some_photos(data, tmp_path / "photos", 4),
             "--out", tmp_path / "run", "--bits", "4,7,8", *QUICK, "--device", DEVICE, "--emulated")  # fmt: skip
    small = ("--samples", "16", "--candidates", "120", "--generations", "3", "--measure-seconds", "0.1")
    ended = command(capsys, *words, *small, "--budget", "1000", "--json")
    assert ended.code == 0, ended.err
    (device,) = json.loads(ended.out)["devices"]
    assert len(seen) > 1
    assert device["latency"]["median_ms"] == 900.0
    assert "the engine takes 2000 ms" in ended.err
    folder = tmp_path / "run" / "devices" / DEVICE
    kept = ComparisonResult.model_validate_json((folder / "latency.json").read_bytes())
    assert kept == seen[0]
    assert sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) == [DEVICE]
