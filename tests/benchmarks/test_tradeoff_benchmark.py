"""The trade-off benchmark's comparison of our front with NNCF's engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.tradeoff import compared, verdict
from benchmarks.tradeoff_chart import draw


def row(arm: str, ms: float, psnr: float) -> dict[str, Any]:
    return {"arm": arm, "median_ms": ms, "psnr_db": {"Set14": psnr}}


ROWS = [
    row("onnxruntime float", 100, 28.6),
    row("bitwright int8", 30, 28.4),
    row("bitwright mixed-01", 40, 28.55),
    row("nncf default, rest fp32", 41, 28.5),
    row("nncf default, rest bf16", 35, 28.45),
    row("nncf accuracy control, rest bf16", 20, 28.0),
]


MS = {entry["arm"]: entry["median_ms"] for entry in ROWS}


def slower(ours: str, theirs: str) -> bool:
    return bool(MS[ours] > MS[theirs])


def test_each_nncf_engine_meets_our_best_point_that_is_as_fast() -> None:
    found = {entry["arm"]: entry for entry in compared(ROWS, slower)}
    assert found["nncf default, rest fp32"]["ours"] == "bitwright mixed-01"
    assert found["nncf default, rest fp32"]["margin_db"] == pytest.approx(0.05)
    assert found["nncf default, rest bf16"]["ours"] == "bitwright int8"
    assert found["nncf default, rest bf16"]["margin_db"] == pytest.approx(-0.05)
    assert found["nncf accuracy control, rest bf16"] == {
        "arm": "nncf accuracy control, rest bf16", "ours": None, "margin_db": None,
    }  # fmt: skip


def test_the_verdict_tells_losses_too() -> None:
    lines = verdict(compared(ROWS, slower)).splitlines()
    assert len(lines) == 3
    assert "bitwright int8 has -0.050 dB" in lines[1]
    assert "all points of ours are measurably slower" in lines[2]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw("rfdn_x4", ROWS, tmp_path / "rfdn_x4.png")
    with Image.open(tmp_path / "rfdn_x4.png") as picture:
        assert picture.size == (1440, 880)
