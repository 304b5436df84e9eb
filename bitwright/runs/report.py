"""Writing a run's page again from its `report.json`."""

from __future__ import annotations

from pathlib import Path

from bitwright.report import write_html
from bitwright.runs.reporting import load_report


def rebuild(run: Path) -> Path:
    """Write `report.html` from `report.json` and return its path."""
    return write_html(load_report(run), run)
