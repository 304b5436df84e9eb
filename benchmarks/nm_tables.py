"""The tables of the N:M comparison: both accounts and the diagnostics by pattern, and every method against SR-STE."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.common import NOTHING, markdown_table, spread
from benchmarks.nm_recipe import Figure, Recipe

LARGEST_NOISE = 1e6
"""A ratio of noise to signal beyond it stands for a signal that was not positive."""
NO_SIGNAL = "no signal"
BASELINE = "sr_ste"
Results = Sequence[dict[str, Any]]


def tables_of(recipe: Recipe, results: Results) -> str:
    """The comparison with SR-STE, then a table for each pattern; dense stands in each of them."""
    patterns = [p for p in dict.fromkeys(r["pattern"] for r in results) if p != "dense"]
    parts = [f"### {pattern}\n\n" + _table(recipe, results, pattern) for pattern in patterns]
    versus = _versus(recipe.figures[0], results, patterns)
    return "\n\n".join([*([versus] if versus else []), *parts])


def _table(recipe: Recipe, results: Results, pattern: str) -> str:
    rows = []
    main = recipe.figures[0]
    for method in dict.fromkeys(r["method"] for r in results):
        chosen = [r for r in results if r["method"] == method and r["pattern"] in (pattern, "dense")]
        steps = [r for r in chosen if r["budget"] == "steps"]
        flops = [r for r in chosen if r["budget"] == "flops"] or (steps if method == "dense" else [])
        if not steps:
            continue
        rows.append(
            [
                method,
                *(spread([r["score"][f.key] for r in steps], f.digits) for f in recipe.figures),
                f"{statistics.mean(r['flops_algorithmic'] for r in steps) / 1e9:.2f}",
                f"{statistics.mean(r['flops_realisable'] for r in steps) / 1e9:.2f}",
                spread([r["score"][main.key] for r in flops], main.digits),
                f"{statistics.mean(r['steps'] for r in flops):.0f}" if flops else NOTHING,
                *(geometric([r[key] for r in steps]) for key in ("g_var", "v_var", "update_pruned")),
                noise_of([r["nsr"] for r in steps]),
                noise_of([r["nsr_pruned"] for r in steps]) if _pruned_move(steps) else NOTHING,
            ]
        )
    quality = [f"{f.title}, equal steps" if f is main else f.title for f in recipe.figures]
    titles = ("method", *quality, "GFLOPs", "realisable", f"{main.title}, equal FLOPs", "steps", "g_var", "v_var",
              "update RMS, pruned", "nsr, kept", "nsr, pruned")  # fmt: skip
    return markdown_table(titles, rows)


def _pruned_move(results: Results) -> bool:
    """Whether pruned weights had a gradient at all."""
    return any((r["pruned_energy"] or 0.0) > 0 for r in results)


def _versus(figure: Figure, results: Results, patterns: Sequence[str]) -> str:
    """Each method less SR-STE at equal steps, seed by seed; empty where SR-STE was not trained."""
    quality = {
        (r["method"], r["pattern"], r["seed"]): r["score"][figure.key] for r in results if r["budget"] == "steps"
    }
    methods = [m for m in dict.fromkeys(r["method"] for r in results) if m not in ("dense", BASELINE)]
    rows = []
    for method in methods:
        differences = [
            [value - quality[BASELINE, p, seed] for (m, p, seed), value in quality.items()
             if (m, p) == (method, pattern) and (BASELINE, p, seed) in quality]
            for pattern in patterns
        ]  # fmt: skip
        rows.append([method, *(spread(values, figure.digits, signed=True) for values in differences)])
    if not any(cell != NOTHING for row in rows for cell in row[1:]):
        return ""
    title = f"{figure.title} less that of {BASELINE}, equal steps"
    return f"### Against SR-STE\n\n{title}, mean ± standard deviation of the differences seed by seed.\n\n" + (
        markdown_table(("method", *patterns), rows)
    )


def geometric(values: Sequence[float | None]) -> str:
    """The geometric mean of what is known and positive."""
    known = [v for v in values if v is not None and v > 0]
    return f"{math.exp(statistics.mean(math.log(v) for v in known)):.2e}" if known else NOTHING


def noise_of(values: Sequence[float | None]) -> str:
    """Noise over signal; no figure where the half-batches of some arm did not even agree in direction."""
    lacking = any(v is None or v > LARGEST_NOISE for v in values)
    return NO_SIGNAL if lacking else geometric(values)
