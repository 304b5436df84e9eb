"""Pictures of a search: the network found, the probabilities over the epochs, and a front of budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from bitwright.foundation.files import atomic_path
from search.quantnas.cost_table import network_bitops
from workloads.super_resolution.models.searched import Genotype, SearchSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BIT_COLOURS = {2: "#7a3b9a", 3: "#8d5fb0", 4: "#2a5ea8", 5: "#3b86b8", 6: "#2f9c95", 7: "#5f9e3c", 8: "#b0561b",
               32: "#59616b"}  # fmt: skip
_INK, _GREY, _SOFT = "#16191d", "#b4bac1", "#59616b"


def draw_architecture(genotype: Genotype, path: Path) -> None:
    """Every searched layer of the network with its operation, bits and channels; SVG or PNG by the suffix of `path`.

    One row for the layers before the cells, one for each cell, one for those behind. A bar below a layer shows its
    share of the BitOps of the searched layers.
    """
    from matplotlib.patches import FancyBboxPatch

    space = genotype.search_space()
    rows = _rows(space)
    columns = max(len(row) for _, row in rows)
    work = _shares(genotype, space)
    greatest = max(work.values())
    with _style():
        figure, axes = _figure(1.1 + 1.62 * columns, 1.0 + 0.98 * len(rows))
        axes.set_xlim(-0.66, columns)
        axes.set_ylim(len(rows), -0.12)
        axes.set_axis_off()
        sites = {site.name: site for site in space.wiring.sites}
        for y, (title, names) in enumerate(rows):
            axes.text(-0.62, y + 0.36, title, color=_SOFT, va="center", fontsize=8.5)
            for x, name in enumerate(names):
                choice, site = genotype.layers[name], sites[name]
                colour = BIT_COLOURS[choice.bits]
                axes.add_patch(
                    FancyBboxPatch((x + 0.05, y + 0.06), 0.9, 0.62, boxstyle="round,pad=0,rounding_size=0.06",
                                   facecolor=colour, alpha=0.13, edgecolor=colour, linewidth=1.0)
                )  # fmt: skip
                size = f"{site.inputs} → {site.outputs}" + (f"  ×{site.factor}" if site.factor > 1 else "")
                short = name.removeprefix(title.replace("cell ", "cells.") + ".")
                axes.text(x + 0.10, y + 0.16, short, color=_SOFT, va="center", fontsize=7)
                axes.text(x + 0.90, y + 0.16, size, color=_SOFT, va="center", ha="right", fontsize=7)
                long = len(choice.operation) > 15
                axes.text(x + 0.5, y + 0.38, choice.operation, color=_INK, va="center", ha="center",
                          fontsize=7 if long else 8.5)  # fmt: skip
                axes.text(x + 0.5, y + 0.57, f"{choice.bits} bit", color=colour, va="center", ha="center",
                          fontsize=8, fontweight="bold")  # fmt: skip
                axes.add_patch(
                    FancyBboxPatch((x + 0.05, y + 0.74), 0.9 * work[name] / greatest, 0.05,
                                   boxstyle="square,pad=0", facecolor=colour, linewidth=0)
                )  # fmt: skip
        total = network_bitops(genotype, 32, 32)
        figure.suptitle(
            f"{space.name}, ×{space.scale}, {space.width} channels{', ADQ' if genotype.adq else ''}: "
            f"{total / 1e9:.3g} GBitOps for 32×32 input",
            x=0.02, ha="left", fontsize=10, color=_INK,
        )  # fmt: skip
        legend = f"bars: share of the searched layers' BitOps, longest {greatest:.0%}"
        if space.fixed:
            legend += f"; fixed parts run in {space.fixed_bits} bits and are not drawn"
        figure.text(0.02, 0.012, legend, fontsize=7, color=_SOFT)
        figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.42 / figure.get_figheight(),
                               bottom=0.30 / figure.get_figheight())  # fmt: skip
        _save(figure, path)


def draw_alphas(alphas: Mapping[str, Tensor], tokens: Mapping[str, Sequence[str]],
                bits: Mapping[str, Sequence[int]], path: Path, *, warm_up: int = 0) -> None:  # fmt: skip
    """Probabilities after each epoch, one panel a layer: [records, operations, bits], the operations' names and the
    bit widths, all by layer.

    A line is a choice: its colour the bit width, its dashes the operation. The choice that wins is named.
    """

    names = [name for name in tokens if name in alphas]
    from matplotlib.ticker import MaxNLocator

    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    with _style():
        figure, grid = _grid(rows, columns)
        for place, name in enumerate(names):
            axes, seen = grid[place], alphas[name].numpy()
            last = seen.shape[0] - 1
            winner = np.unravel_index(int(seen[-1].argmax()), seen.shape[1:])
            for o in range(seen.shape[1]):
                for b, width in enumerate(bits[name]):
                    won = (o, b) == tuple(int(i) for i in winner)
                    weight, alpha, order = (1.9, 1.0, 3) if won else (0.8, 0.55, 2)
                    axes.plot(
                        range(last + 1), seen[:, o, b], color=BIT_COLOURS[width], lw=weight, alpha=alpha,
                        ls=_DASHES[o % len(_DASHES)], zorder=order,
                    )  # fmt: skip
            o, b = (int(i) for i in winner)
            axes.set_title(name.replace("_", "."), fontsize=8, loc="left", color=_INK)
            width = bits[name][b]
            axes.set_title(f"{tokens[name][o]} / {width}", fontsize=7, loc="right", color=BIT_COLOURS[width])
            if warm_up:
                axes.axvspan(0, min(warm_up, last), color=_GREY, alpha=0.18, lw=0)
            top = float(seen.max())
            axes.set_ylim(0, 1.0 if top > 0.5 else 1.25 * top)
            axes.set_xlim(0, max(1, last))
            axes.tick_params(labelsize=6.5, length=2)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            axes.spines[["top", "right"]].set_visible(False)
            if place >= len(names) - columns:
                axes.set_xlabel("epoch", fontsize=7, color=_SOFT)
        for axes in grid[len(names) :]:
            axes.set_visible(False)
        from matplotlib.lines import Line2D

        widths = sorted({b for name in names for b in bits[name]})
        handles = [Line2D([], [], color=BIT_COLOURS[b], lw=1.8, label=f"{b} bit") for b in widths]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(widths), frameon=False, fontsize=8)
        figure.suptitle("Probability of each choice after each epoch; bold: the winner", x=0.01, ha="left",
                        fontsize=9.5, color=_INK)  # fmt: skip
        _save(figure, path)


def draw_front(points: Sequence[tuple[str, float, float]], unit: str, metric: str, path: Path) -> None:
    """Quality over cost of several networks, (name, cost, quality); those that none beats are joined."""

    ordered = sorted(points, key=lambda point: (point[1], -point[2]))
    front = [p for i, p in enumerate(ordered) if all(p[2] > q[2] for q in ordered[:i])]
    with _style():
        figure, axes = _figure(5.6, 3.8, layout="constrained")
        axes.plot([p[1] for p in front], [p[2] for p in front], color=BIT_COLOURS[4], lw=1, zorder=2)
        for name, cost, quality in ordered:
            on = (name, cost, quality) in front
            axes.plot([cost], [quality], "o", color=BIT_COLOURS[4] if on else _GREY, ms=6, zorder=3)
            axes.annotate(name, (cost, quality), textcoords="offset points", xytext=(6, -9), fontsize=7, color=_SOFT)
        axes.set_xlabel(f"cost, {unit}")
        axes.set_ylabel(metric)
        axes.margins(0.12)
        axes.grid(color=_GREY, alpha=0.3, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        _save(figure, path)


_DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 2)), (0, (7, 2)), (0, (4, 1, 1, 1, 1, 1)))


@contextmanager
def _style() -> Iterator[None]:
    from matplotlib import rc_context

    with rc_context({"font.size": 8, "font.family": "DejaVu Sans", "axes.linewidth": 0.6, "svg.fonttype": "none",
                     "svg.hashsalt": "quantnas"}):  # fmt: skip
        yield


def _rows(space: SearchSpace) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, list[str]]] = []
    for site in space.wiring.sites:
        parts = site.name.split(".")
        title = f"cell {parts[1]}" if parts[0] == "cells" else parts[0]
        if not rows or rows[-1][0] != title:
            rows.append((title, []))
        rows[-1][1].append(site.name)
    return rows


def _shares(genotype: Genotype, space: SearchSpace) -> dict[str, float]:
    work = {}
    for site in space.wiring.sites:
        macs = genotype.operation_at(site).macs_per_position * site.factor**2
        work[site.name] = float(macs * genotype.layers[site.name].bits ** 2)
    total = sum(work.values()) or 1.0
    return {name: value / total for name, value in work.items()}


def _figure(width: float, height: float, layout: Literal["constrained"] | None = None) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout=layout)
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _grid(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.9 * columns, 0.5 + 1.75 * rows), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]


def _save(figure: Figure, path: Path) -> None:
    form = path.suffix.removeprefix(".")
    with atomic_path(path) as temporary:
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(temporary, format=form, metadata=metadata)
