"""Tables and picture of the quality study of QuantNAS: mean and standard deviation over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import markdown_table, spread
from benchmarks.quantnas_study_arms import ArmKind, UnitRecord
from bitwright.foundation.files import atomic_path

COLOURS = {
    ArmKind.NOISE: "#0b6e62", ArmKind.DIRECT: "#2a5ea8", ArmKind.RANDOM: "#8a9097", ArmKind.BITS: "#b0561b",
    ArmKind.UNIFORM: "#16191d", ArmKind.NO_ENTROPY: "#8d5fb0", ArmKind.NO_ADQ: "#5f9e3c",
    ArmKind.DIRECT_NO_ADQ: "#c2a01e",
}  # fmt: skip


def groups_of(records: Sequence[UnitRecord]) -> dict[tuple[ArmKind, float], list[UnitRecord]]:
    """The seeds of each arm and level, in the order of arms, then levels."""
    found: dict[tuple[ArmKind, float], list[UnitRecord]] = {}
    order = list(ArmKind)
    for record in sorted(records, key=lambda r: (order.index(r.arm), r.level, r.seed)):
        found.setdefault((record.arm, record.level), []).append(record)
    return found


def main_table(records: Sequence[UnitRecord], sets: Sequence[str]) -> str:
    """A row for each arm and level."""
    rows = []
    for (arm, level), found in groups_of(records).items():
        sure = [r.certainty for r in found if r.certainty is not None]
        gaps = [r.gap for r in found if r.gap is not None]
        rows.append([
            arm.value, f"{level:g}", str(len(found)), f"{found[0].budget / 1e9:.3f}",
            spread([r.bitops["32x32"] / 1e9 for r in found]), spread([r.parameters / 1e3 for r in found], 1),
            *(spread([r.quality[name] for r in found]) for name in sets),
            spread(sure, 2) if sure else "", spread(gaps, 4) if gaps else "",
        ])  # fmt: skip
    titles = ["arm", "level", "seeds", "budget G", "GBitOps 32x32", "k parameters", *(f"{n} dB" for n in sets),
              "certainty", "one-hot gap L1"]  # fmt: skip
    return markdown_table(titles, rows)


def margins(records: Sequence[UnitRecord], sets: Sequence[str]) -> list[dict[str, Any]]:
    """What the noise search has over each other arm at the same level, dB, on the seeds that both have."""
    groups = groups_of(records)
    found = []
    for (arm, level), others in groups.items():
        ours = {r.seed: r for r in groups.get((ArmKind.NOISE, level), [])}
        pairs = [(ours[r.seed], r) for r in others if r.seed in ours]
        if arm is ArmKind.NOISE or not pairs:
            continue
        found.append({
            "over": arm.value, "level": level, "seeds": [r.seed for _, r in pairs],
            "bitops_ratio": [own.bitops["32x32"] / r.bitops["32x32"] for own, r in pairs],
            "margin_db": {name: [own.quality[name] - r.quality[name] for own, r in pairs] for name in sets},
        })  # fmt: skip
    return found


def margin_table(rows: Sequence[dict[str, Any]], sets: Sequence[str]) -> str:
    """Where the margin is negative, the claim does not hold there."""
    shown = [
        [row["over"], f"{row['level']:g}", str(len(row["seeds"])), spread(row["bitops_ratio"], 2),
         *(spread(row["margin_db"][name]) for name in sets)]
        for row in rows
    ]  # fmt: skip
    titles = ["noise over", "level", "seeds", "BitOps ratio", *(f"{name} margin dB" for name in sets)]
    return markdown_table(titles, shown)


def draw(records: Sequence[UnitRecord], sets: Sequence[str], path: Path) -> None:
    """PSNR-Y over BitOps, one panel a test set, mean and standard deviation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(sets), 3.9), dpi=180, layout="constrained")
    FigureCanvasAgg(figure)
    groups = groups_of(records)
    for place, name in enumerate(sets):
        axes = figure.add_subplot(1, len(sets), place + 1)
        for arm in dict.fromkeys(arm for arm, _ in groups):
            mine = [found for (one, _), found in groups.items() if one is arm]
            points = [([r.bitops["32x32"] / 1e9 for r in found], [r.quality[name] for r in found]) for found in mine]
            axes.errorbar(
                [statistics.mean(x) for x, _ in points], [statistics.mean(y) for _, y in points],
                xerr=[_deviation(x) for x, _ in points], yerr=[_deviation(y) for _, y in points],
                marker="o", markersize=4, linewidth=1.1, elinewidth=0.7, capsize=2, color=COLOURS[arm], label=arm.value,
            )  # fmt: skip
        axes.set_title(name, loc="left", fontweight="bold", fontsize=10)
        axes.set_xlabel("GBitOps at 32x32, whole network")
        axes.set_ylabel("PSNR-Y, dB (simulated in torch)")
        axes.ticklabel_format(useOffset=False)
        axes.grid(color="#e6e9ec", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if place == 0:
            axes.legend(frameon=False, fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
