"""The picture of a trade-off benchmark: our front and NNCF's engines, from one timing session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitwright.foundation.files import atomic_path

_OURS, _NNCF, _FLOAT = "#0b6e62", "#b0561b", "#16191d"


def draw(name: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """PSNR-Y on Set14 against the measured median, ms; `rows` as `benchmarks.tables.rows_of` makes them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    groups = (("bitwright", _OURS, "o"), ("nncf", _NNCF, "^"), ("", _FLOAT, "s"))
    taken: set[str] = set()
    for prefix, colour, marker in groups:
        mine = [row for row in rows if row["arm"].startswith(prefix) and row["arm"] not in taken]
        taken |= {row["arm"] for row in mine}
        mine.sort(key=lambda row: row["median_ms"])
        x, y = [row["median_ms"] for row in mine], [row["psnr_db"]["Set14"] for row in mine]
        style = "-" if prefix == "bitwright" else ""
        axes.plot(x, y, marker + style, color=colour, markersize=6, linewidth=1.2, label=prefix or "float")
        # Engines of one mode lie close together: their labels go below and above in turn. Above the front is room.
        for number, row in enumerate(mine if prefix != "bitwright" else ()):
            at = (row["median_ms"], row["psnr_db"]["Set14"])
            label = row["arm"].removeprefix("nncf ")
            axes.annotate(
                label, at, (6, 6 if number % 2 else -12), textcoords="offset points", fontsize=7, color=colour
            )
    axes.set_title(name, loc="left", fontweight="bold", fontsize=11)
    axes.set_xlabel("measured latency, ms (all engines timed in turn)")
    axes.set_ylabel("PSNR-Y on Set14, dB")
    axes.ticklabel_format(useOffset=False)
    axes.grid(color="#e6e9ec", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12, y=0.14)
    axes.legend(frameon=False, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
