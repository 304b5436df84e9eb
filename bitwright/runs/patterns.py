"""A pattern for each layer: by what pruning it alone costs, or by a search that trains the network."""

from __future__ import annotations

import torch
from torch import fx

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note
from bitwright.runs.job import Job
from bitwright.runs.mask_rules import SEARCHES
from bitwright.runs.recovery import settings_for
from bitwright.runs.sparse_kernels import use_of
from compress.layer_table import LayerRow
from compress.nm_pattern import Sparsity
from compress.sparsity.assignment import Choice, assign
from compress.sparsity.eligibility import reduction_length
from compress.sparsity.one_shot import sparse_weights
from compress.sparsity.pattern_search import Searched, SearchSettings, search_patterns
from compress.sparsity.sensitivity import pruning_losses
from compress.training.processes import Processes
from hw_profiles import DType
from hw_profiles.sparsity_support import work_left

CROPS = 16
"""Calibration crops that the sensitivity of layers is measured on."""

CANDIDATES = ("2:4", "1:2", "1:4", "1:8", "1:16")
"""Patterns that a layer may get with `auto`, where M divides its channels."""

KEPT = 0.5
"""Share of the prunable weights that `auto` keeps: that of 2:4."""

LONGEST = {"domino": 16, "sls": 32}
"""Largest M of the searches that train, as published; a layer gets the largest power of two that divides it."""
STATE = "work/patterns.safetensors"

Patterns = dict[str, Sparsity | None]


def check_search(job: Job) -> None:
    """UsageError for a search that trains where the device has kernels for one pattern only."""
    if job.request.sparsity in SEARCHES and _has_sparse_kernels(job):
        raise UsageError(
            f"--sparsity {job.request.sparsity} finds any N:M, and {job.profile.id} has kernels for 2:4 only: give "
            "--sparsity auto"
        )


def assigned(job: Job, graph: fx.GraphModule, prunable: Patterns) -> Patterns:
    """The pattern of each layer call, with no more weights kept in all than 2:4 would keep of those in `prunable`."""
    by_weight = {row.weight: row for row in job.table.rows if prunable[row.name] is not None}
    if job.request.sparsity == "auto":
        chosen = _by_sensitivity(job, graph, prunable, by_weight)
    else:
        chosen = _by_training(job, graph, prunable, by_weight)
    return {row.name: chosen.get(row.weight) for row in job.table.rows}


def _by_training(job: Job, graph: fx.GraphModule, prunable: Patterns, by_weight: dict[str, LayerRow]) -> Patterns:
    """In the first process alone: the others wait for masks."""
    kind = job.request.sparsity
    assert kind is not None
    total = sum(row.weight_elements for row in by_weight.values())
    searched = {}
    for name, (_, layout) in sparse_weights(graph, job.table, prunable).items():
        length, m = reduction_length(by_weight[name]), LONGEST[kind]
        while length % m:
            m //= 2
        searched[name] = Searched(layout, m, by_weight[name].weight_elements / total)
    settings, workload = settings_for(job, job.request.sparsity_search_steps, None), job.loaded.workload
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = search_patterns(
        graph, searched, workload.training(job.request.data, settings.patch, job.request.seed), workload.loss,
        SearchSettings(kind, KEPT, job.request.sparsity_search_steps, settings.batch, job.request.seed),
        Processes(0, 1, device), path=job.run.path / STATE,
    )  # fmt: skip
    cut = f"; {len(found.trimmed)} layers cut by magnitude, the steps were over" if found.trimmed else ""
    note(f"{kind}: {found.cost:.2f} of the weights kept after {found.steps} steps{cut}")
    return {name: None if pattern.dense else pattern for name, pattern in found.patterns.items()}


def _by_sensitivity(job: Job, graph: fx.GraphModule, prunable: Patterns, by_weight: dict[str, LayerRow]) -> Patterns:
    """The least sum of output errors within the budget."""
    candidates = {}
    names = ("2:4", "1:2") if _has_sparse_kernels(job) else CANDIDATES
    for name, (_, layout) in sparse_weights(graph, job.table, prunable).items():
        length = reduction_length(by_weight[name])
        found = [Sparsity.parse(text) for text in names]
        candidates[name] = (layout, [pattern for pattern in found if length % pattern.m == 0])
    losses = pruning_losses(graph, candidates, job.calibration[:CROPS])
    choices = {}
    for name, by_pattern in losses.items():
        count = by_weight[name].weight_elements
        options = [Choice(pattern, loss, count * pattern.density) for pattern, loss in by_pattern.items()]
        choices[name] = [Choice(None, 0.0, float(count)), *options]
    budget = KEPT * sum(row.weight_elements for row in by_weight.values())
    return {name: choice.pattern for name, choice in assign(choices, budget).items()}


def _has_sparse_kernels(job: Job) -> bool:
    """Whether the device and its runtime gain time from 2:4 in some layer; sparser patterns would then only lose."""
    pattern, runtime, arch = Sparsity(n=2, m=4), job.runtime.value, job.profile.arch
    return any(work_left(use_of(row, runtime, DType.INT8, pattern, arch)) < 1 for row in job.table.rows)
