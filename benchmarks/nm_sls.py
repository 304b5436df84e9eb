"""SLS as an arm of the N:M comparison: a pattern for each layer, searched at the cost of the uniform one."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from benchmarks.nm_recipe import Recipe
from compress.graph import capture
from compress.nm_pattern import Sparsity
from compress.sparsity.eligibility import layout_of_row
from compress.sparsity.pattern_search import Found, Searched, SearchSettings, search_patterns

SLS = "sls"
SEARCH_SHARE = 0.3
"""Share of an arm's steps that the search has at most; what it leaves goes to the training under its patterns."""


def searched_patterns(recipe: Recipe, model: nn.Module, uniform: Mapping[str, Sparsity], steps: int,
                      seed: int) -> Found:  # fmt: skip
    """Patterns by layer, in groups of M as in `uniform`, for at most its MACs; `steps`: of the search, at most."""
    rows = [row for row in recipe.rows if row.name in uniform]
    total = sum(row.macs for row in rows)
    searched = {row.weight: Searched(layout_of_row(row), uniform[row.name].m, row.macs / total) for row in rows}
    budget = sum(searched[row.weight].share * uniform[row.name].density for row in rows)
    settings = SearchSettings(SLS, budget=budget, steps=max(1, steps), batch=recipe.schedule.batch, seed=seed)
    graph = capture(copy.deepcopy(model).cpu(), recipe.example())
    found = search_patterns(graph, searched, recipe.pairs(seed), recipe.loss, settings, recipe.alone)
    names = {row.weight: row.name for row in rows}
    patterns = {names[weight]: pattern for weight, pattern in found.patterns.items()}
    return Found(patterns, found.cost, found.steps, found.seconds, found.trimmed)
