"""Rows and tables of a comparison: what each arm executes, how fast it is, and what it costs in quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.arms import ArmRecord
from benchmarks.common import markdown_table, speedup_text
from deploy.latency import ComparisonResult

TITLES = (
    "arm", "int8 layers", "median ms", "speed-up [95 %]", "Set5 dB", "Set14 dB", "Set14 drop dB", "preparation min",
)  # fmt: skip


def rows_of(records: Sequence[ArmRecord], times: ComparisonResult, baseline: str) -> list[dict[str, Any]]:
    """One row of figures an arm; the drop is on Set14, against the engine called `baseline`."""
    reference = next(record for record in records if record.arm == baseline)
    rows = []
    for record in records:
        summary = times.measurement(record.arm).to_summary()
        rows.append(
            {
                "arm": record.arm,
                "int8_layers": record.int8_layers,
                "layers": record.layers,
                "median_ms": summary.median_ms,
                "p90_ms": summary.p90_ms,
                "n": summary.n,
                "noise": [noise.value for noise in summary.noise],
                "speedup": times.speedup(record.arm, baseline).model_dump(mode="json"),
                "psnr_db": {name: score.mean for name, score in record.quality.items()},
                "drop_db": {n: reference.quality[n].mean - score.mean for n, score in record.quality.items()},
                "preparation_s": record.preparation_s,
            }
        )
    return rows


def table_of(records: Sequence[ArmRecord], times: ComparisonResult, baseline: str, *, preparation: bool = True) -> str:
    """The table of one network, with or without the column of the time that each arm took to make."""
    cells = []
    for row in rows_of(records, times, baseline):
        cells.append(
            [
                row["arm"],
                f"{row['int8_layers']}/{row['layers']}",
                f"{row['median_ms']:.1f}",
                speedup_text(times.speedup(row["arm"], baseline)),
                f"{row['psnr_db']['Set5']:.3f}",
                f"{row['psnr_db']['Set14']:.3f}",
                f"{row['drop_db']['Set14']:.3f}",
                f"{row['preparation_s'] / 60:.1f}",
            ]
        )
    shown = len(TITLES) if preparation else -1
    return markdown_table(TITLES[:shown], [row[:shown] for row in cells])


def circumstances(times: ComparisonResult) -> str:
    """Where and how a session was measured, in one line, with a warning where the machine was busy."""
    one = times.measurements[0]
    noise = sorted({noise.value for m in times.measurements for noise in m.noise})
    warning = f" **Rough: {'; '.join(noise)}.**" if noise else ""
    return (
        f"{times.environment.cpu_model}, {one.threads} thread(s), input {'x'.join(map(str, one.input_shape))}, "
        f"interleaved, environment {times.environment.fingerprint}.{warning}"
    )
