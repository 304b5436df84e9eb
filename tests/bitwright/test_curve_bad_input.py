"""Requests for a curve that cannot be carried out: one line and an exit code, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bitwright.curve_helpers import run_curve
from tests.bitwright.job_helpers import some_photos, tiny_checkpoint


def test_refusals(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, photos, out = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos"), tmp_path / "run"
    for words, told in (
        (("--budget-ms", "0"), "--budget-ms"),
        (("--points", "-1"), "--points"),
        (("--table", str(tmp_path / "none.jsonl")), "bitwright profile"),
        (("--set", "budget=3"), "budget_ms"),
        (("--resume", "--overwrite"), "--overwrite"),
        (("--runtime", "tensorrt"), "--runtime tensorrt"),
    ):
        assert told in run_curve(capsys, net, photos, out, *words).refusal(), words
    assert not out.exists()


def test_a_dry_run_writes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, photos, out = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos"), tmp_path / "run"
    ended = run_curve(capsys, net, photos, out, "--dry-run", "--points", "4")
    assert ended.code == 0
    assert "up to 4 mixed-precision engines" in ended.out
    assert not out.exists()
