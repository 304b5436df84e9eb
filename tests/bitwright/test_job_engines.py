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
