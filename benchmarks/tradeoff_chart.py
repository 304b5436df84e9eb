"""The picture of a trade-off benchmark: our front and NNCF's engines, from one timing session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.foundation.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _NNCF, _FLOAT = "#0b6e62", "#b0561b", "#16191d"


def draw(name: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """PSNR-Y on Set14 against the measured median, ms; `rows` as `benchmarks.tables.rows_of` makes them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    groups = (("bitwright", _OURS, "o"), ("nncf", _NNCF, "^"), ("", _FLOAT, "s"))
    times = [row["median_ms"] for row in rows]
    span = max(times) - min(times)
    taken: set[str] = set()
    for prefix, colour, marker in groups:
        mine = [row for row in rows if row["arm"].startswith(prefix) and row["arm"] not in taken]
        taken |= {row["arm"] for row in mine}
        mine.sort(key=lambda row: row["median_ms"])
        x, y = [row["median_ms"] for row in mine], [row["psnr_db"]["Set14"] for row in mine]
        style = "-" if prefix == "bitwright" else ""
        axes.plot(x, y, marker + style, color=colour, markersize=6, linewidth=1.2, label=prefix or "float")
        if prefix != "bitwright":
            below = prefix == "nncf"
            for number, row in enumerate(mine):
                _label(axes, row, colour, below=below and not _crowded(mine[:number], row, span))
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


def _label(axes: Axes, row: dict[str, Any], colour: str, *, below: bool) -> None:
    """The name of an arm beside its point, towards the middle of the picture."""
    left, right = axes.get_xlim()
    late = row["median_ms"] > (left + right) / 2
    axes.annotate(
        row["arm"].removeprefix("nncf "), (row["median_ms"], row["psnr_db"]["Set14"]), (0, -13 if below else 7),
        textcoords="offset points", fontsize=7, color=colour, horizontalalignment="right" if late else "left",
    )  # fmt: skip


def _crowded(before: Sequence[dict[str, Any]], row: dict[str, Any], span: float) -> bool:
    """Whether one of the points before lies so close that their labels would cover each other."""
    return any(
        abs(one["median_ms"] - row["median_ms"]) < 0.45 * span
        and abs(one["psnr_db"]["Set14"] - row["psnr_db"]["Set14"]) < 0.05
        for one in before
    )
