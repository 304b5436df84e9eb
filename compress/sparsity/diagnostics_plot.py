"""A picture of the diagnostics of several trainings: one panel for each figure, one line for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import atomic_path
from compress.sparsity.diagnostics import Row

Rows = Sequence[Row]

PANELS = ("v_var", "g_var", "update_pruned", "pruned_energy", "flip_rate", "reentry_rate", "sad", "retained")
"""Figures that are drawn; the first three on logarithmic axes."""
LOGARITHMIC = frozenset(PANELS[:3])


def plot_diagnostics(methods: Mapping[str, Rows], path: Path) -> None:
    """Draw the mean over layers of each figure against the step, as PNG. `methods`: rows of a `DiagnosticsLog` each."""
    if not any(methods.values()):
        raise UsageError("there are no diagnostics to draw; record some steps first")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 4).flatten()
    for panel, name in zip(panels, PANELS, strict=True):
        for method, rows in methods.items():
            by_step: dict[int, list[float]] = {}
            for step, _, values in rows:
                by_step.setdefault(step, []).append(getattr(values, name))
            means = [sum(found) / len(found) for found in by_step.values()]
            panel.plot(list(by_step), means, label=method, linewidth=1.2)
        panel.set_title(name)
        panel.set_xlabel("step")
        if name in LOGARITHMIC:
            panel.set_yscale("log", nonpositive="mask")
    panels[0].legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
