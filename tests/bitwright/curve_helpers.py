"""What the tests of curves share: the smallest curve through the real command line, and points made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.report.tradeoff_curve import CurvePoint, Front, Kind, PointLatency, PointQuality
from tests.bitwright.job_helpers import DEVICE, Ended, command

SETTINGS = ("calibration_count=8", "calibration_size=32", "iterations=20")
WORDS = (
    *(word for setting in SETTINGS for word in ("--set", setting)),
    *("--measure-seconds", "0.1", "--input-size", "64x64"),
)


def curve_words(checkpoint: Path, photos: Path, out: Path, *more: str | Path) -> list[str]:
    """The arguments of `bitwright curve` with the smallest settings."""
    words = ("curve", checkpoint, "--device", DEVICE, "--data", photos, "--out", out, *WORDS, *more)
    return list(map(str, words))


def run_curve(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, photos: Path, out: Path, *more: str | Path
) -> Ended:
    """`bitwright curve` in this process."""
    return command(capsys, *curve_words(checkpoint, photos, out, *more))


def point(
    name: str, ms: float, engine: float, *, kind: Kind = Kind.MIXED, held_out_drop: float | None = None
) -> CurvePoint:
    """A point whose float network has 30 dB; on the held-out samples it drops as on the others unless told."""
    drop = 30.0 - engine
    held = drop if held_out_drop is None else held_out_drop
    return CurvePoint(
        name=name,
        kind=kind,
        label=name,
        runtime="openvino",
        float_precision="bf16",
        plan=f"points/{name}/plan.json",
        engine=f"points/{name}/engine",
        layers=(),
        planned={"int8": 1},
        executed={"int8": 1},
        audit_passed=True,
        quality=PointQuality(
            engine=engine, torch_gap=0, compared=1, drop=drop, held_out=30 - held, held_out_drop=held
        ),
        latency=PointLatency(
            ms=ms, low_ms=ms * 0.98, high_ms=ms * 1.02, speedup=100 / ms, speedup_low=98 / ms, speedup_high=102 / ms,
            verdict="faster", session="sessions/00.json", session_ms=ms, p90_ms=None, n=10, noisy=False,
        ),
        size_bytes=1000,
        bitops=1000,
        front=Front(latency=True, bitops=True, size=True),
    )  # fmt: skip
