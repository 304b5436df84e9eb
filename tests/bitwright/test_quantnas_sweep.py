"""A sweep of penalties: who takes which trial, what a killed process leaves, and the front at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitwright.cli.app import run
from bitwright.runs.quantnas_result import QuantnasPoint, front_of
from bitwright.runs.quantnas_sweep import PenaltyStudy, trial_name

BOUNDS = (1e-5, 1e-2)


def _point(name: str, cost: float, quality: float | None) -> QuantnasPoint:
    return QuantnasPoint(
        name=name, budget=None, penalty=0.1, cost=cost, corrected=0, bitops={}, parameters=1, held_out=quality,
        evaluated=None, search_seconds=1.0, genotype="g", network=None,
    )  # fmt: skip


def test_processes_share_a_study_and_take_up_what_was_left(tmp_path: Path) -> None:
    one, other = (PenaltyStudy(tmp_path, BOUNDS, 7) for _ in range(2))
    first, second = one.claim(5), other.claim(5)
    assert first is not None
    assert second is not None
    assert (first.number, second.number) == (0, 1)
    assert first.penalty == pytest.approx(1e-5)
    assert second.penalty == pytest.approx(1e-4)
    assert one.running() == 2
    # The process of the second trial is gone: its lock is free, its trial is not finished.
    second.lock.release()
    left = one.claim(5)
    assert left is not None
    assert (left.number, left.penalty) == (1, second.penalty)
    one.tell(1, _point(trial_name(1), 2.0, 30.0))
    left.lock.release()
    assert other.running() == 1
    one.tell(0, _point(trial_name(0), 3.0, 31.0))
    first.lock.release()
    penalties = []
    while (claim := other.claim(5)) is not None:
        penalties.append(claim.penalty)
        other.tell(claim.number, _point(trial_name(claim.number), claim.penalty, 29.0))
        claim.lock.release()
    assert penalties[:2] == pytest.approx([1e-3, 1e-2])
    assert len(penalties) == 3
    assert all(BOUNDS[0] <= penalty <= BOUNDS[1] for penalty in penalties)
    assert one.claim(5) is None
    more = one.claim(6)
    assert more is not None
    assert more.number == 5


def test_two_that_ask_at_once_do_not_draw_alike(tmp_path: Path) -> None:
    one, other = (PenaltyStudy(tmp_path, BOUNDS, 7) for _ in range(2))
    drawn = [claim for study in (one, other) * 4 if (claim := study.claim(8)) is not None]
    assert len({claim.penalty for claim in drawn}) == len({claim.number for claim in drawn}) == 8
    assert one.claim(8) is None


def test_the_front_has_what_no_other_point_beats() -> None:
    points = [_point("a", 3.0, 30.0), _point("b", 1.0, 29.0), _point("c", 2.0, 28.0), _point("d", 3.0, 31.0),
              _point("e", 0.5, None)]  # fmt: skip
    assert front_of(points) == ("b", "d")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--budget", "1G"], "give no --budget"),
        (["--no-retrain"], "give no --budget"),
        (["--penalty", "1e-3"], "two penalties"),
        (["--penalty", "1e-2", "--penalty", "1e-3"], "two penalties"),
    ],
)
def test_what_a_sweep_cannot_have(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    words = ["search", "quantnas", "--data", str(data / "sr" / "test" / "Set5"), "--out", str(tmp_path / "run"),
             "--preset", "smoke", "--sweep", "3"]  # fmt: skip
    assert run([*words, *flags]) == 2
    assert says in capsys.readouterr().err


def test_a_killed_sweep_goes_on_to_its_front(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["search", "quantnas", "--preset", "smoke", "--data", str(data / "sr" / "test" / "Set5"), "--width", "6",
             "--out", str(out), "--sweep", "2", "--penalty", "1e-4", "--penalty", "10", "--set", "batch=2",
             "--set", "retrain.epochs=1", "--set", "retrain.checked_pictures=1", "--set", "alpha_rate=0.3",
             "--set", "save_seconds=0", "--json"]  # fmt: skip
    job = subprocess.Popen(
        [sys.executable, "-m", "bitwright", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    state, end = out / trial_name(0) / "search.safetensors", time.monotonic() + 200
    while not state.exists() and job.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert state.exists()
    assert not (out / trial_name(0) / "point.json").exists()
    assert run(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert run([*words, "--resume"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [point["name"] for point in result["points"]] == [trial_name(0), trial_name(1)]
    assert [point["penalty"] for point in result["points"]] == pytest.approx([1e-4, 10])
    costs = [point["cost"] for point in result["points"]]
    assert costs[1] < costs[0]
    best = max(result["points"], key=lambda point: point["held_out"])
    assert best["name"] in result["front"]
    assert (out / "front.png").stat().st_size > 5000
    split = json.loads((out / trial_name(0) / "split.json").read_text())
    assert sorted(number for part in split.values() for number in part) == [0, 1, 2, 3]
    assert run([*words, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == result
