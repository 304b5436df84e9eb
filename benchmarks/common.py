"""What all benchmarks write: a Markdown table and a JSON file, both atomic and free of this machine's paths."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bitwright.foundation.files import write_json, write_text
from deploy.environment import LIBRARIES
from deploy.latency import Speedup

RESULTS = "results.json"
TABLE = "table.md"
SCHEMA = 1
NOTHING = "n/a"
"""Stands for a figure that there is not."""
_MORE_LIBRARIES = ("nncf", "onnxscript", "safetensors", "qonnx")


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as plain text too; the first column is flush left, the others right."""
    cells = [[str(title) for title in titles], *([*row] for row in rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(titles))]
    lines = ["| " + " | ".join(_padded(row, widths)) + " |" for row in cells]
    rule = "|" + "|".join(":" + "-" * (w + 1) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]


def spread(values: Sequence[float], digits: int = 3, *, signed: bool = False) -> str:
    """Mean and standard deviation, `28.123 ± 0.010`; the mean alone of one value, NOTHING of none."""
    if not values:
        return NOTHING
    mean = f"{statistics.fmean(values):{'+' if signed else ''}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def speedup_text(speedup: Speedup) -> str:
    """`3.12 [3.08, 3.15]`; the ratio alone with a note where there were too few blocks for an interval."""
    if speedup.low is None or speedup.high is None:
        return f"{speedup.ratio:.2f} (no interval)"
    return f"{speedup.ratio:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]"


def versions() -> dict[str, str]:
    """Versions of all installed packages that a figure may depend on."""
    found = {}
    for name in (*LIBRARIES, *_MORE_LIBRARIES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def without_paths(value: Any, names: Mapping[Path, str]) -> Any:
    """A JSON value in which strings that begin with one of the paths begin with its name instead; keys are kept.

    Each path counts as given and resolved; the longest that fits is taken.
    """
    prefixes = {str(spelling): name for path, name in names.items() for spelling in (path.resolve(), path)}
    ordered = sorted(prefixes.items(), key=lambda item: -len(item[0]))

    def clean(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: clean(inner) for key, inner in part.items()}
        if isinstance(part, list | tuple):
            return [clean(inner) for inner in part]
        if isinstance(part, str):
            for prefix, name in ordered:
                if part == prefix or part.startswith(prefix + "/"):
                    return name + part[len(prefix) :]
        return part

    return clean(value)


def write_results(out: Path, benchmark: str, results: Mapping[str, Any], table: str, names: Mapping[Path, str]) -> None:
    """Write `results.json` and `table.md` into `out`, paths replaced as `without_paths` does.

    The JSON begins with what identifies the run: schema, name of the benchmark, time, command and package versions.
    """
    head = {
        "schema": SCHEMA,
        "benchmark": benchmark,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]],
        "versions": versions(),
    }
    write_json(out / RESULTS, without_paths({**head, **results}, names))
    write_text(out / TABLE, table.rstrip("\n") + "\n")
