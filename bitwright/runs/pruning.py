"""The stage of pruning, between the float baseline and quantisation; off unless N:M is asked for."""

from __future__ import annotations

import shutil

from torch import fx

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note
from bitwright.runs.job import DENSE, Job
from bitwright.runs.mask_training import DIAGNOSTICS, FOLDER, keep_result, mask_settings, save_patterns, train
from bitwright.runs.request import AUTO
from bitwright.runs.sparsity import SPARSE
from bitwright.runs.stages import balanced_graph
from compress.graph import save_graph
from compress.nm_pattern import Sparsity
from compress.sparsity.assignment import Choice, assign
from compress.sparsity.eligibility import reduction_length
from compress.sparsity.one_shot import ScoreKind, pruned, sparse_weights
from compress.sparsity.permutation import permute
from compress.sparsity.sensitivity import pruning_losses
from compress.training.processes import MASKS, NOTHING, give_order
from hw_profiles import DType, Op
from hw_profiles.sparsity_support import work_left

CROPS = 16
"""Calibration crops that the sensitivity of layers is measured on."""

CANDIDATES = ("2:4", "1:2", "1:4", "1:8", "1:16")
"""Patterns that a layer may get with `auto`, where M divides its channels."""

KEPT = 0.5
"""Share of the prunable weights that `auto` keeps: that of 2:4."""


def sparse(job: Job) -> None:
    """Balance and permute channels, then keep N of every M weights by magnitude times input norm.

    Balancing comes first, because scales of input channels change the order of magnitudes within a group. Masks are
    trained here where the request gives them a share of the training; reconstruction and recovery train under them.
    """
    if mask_settings(job) is None:
        give_order(NOTHING, MASKS)
    if job.request.sparsity is None:
        job.run.finish_stage("sparse", [], {"skipped": "not asked for"})
        return
    patterns = {name: decision.pattern for name, decision in job.prunable.items()}
    if not any(patterns.values()):
        first = next(iter(job.prunable.values()))
        raise UsageError(
            f"no layer of this network can be pruned to {job.request.sparsity}; {first.layer}: {first.reason}; "
            "try a smaller M"
        )
    graph, values = balanced_graph(job)
    moved = permute(graph, sparse_weights(graph, job.table, patterns), job.example)
    note(f"{moved.moved} channels permuted: {100 * moved.efficacy:.0f} % of what whole rows would keep more")
    save_graph(moved.graph, job.run.path / DENSE)
    if job.request.sparsity == AUTO:
        patterns = _assigned(job, moved.graph, patterns)
    result = pruned(moved.graph, job.table, patterns, job.calibration, ScoreKind.INPUT_NORM)
    drop = job.evaluate(job.original) - job.evaluate(result)
    values = dict(values)
    if mask_settings(job) is not None:
        values["untrained_drop"] = drop
        result, drop = _trained(job, patterns)
    save_graph(result, job.run.path / SPARSE)
    count = sum(pattern is not None for pattern in patterns.values())
    note(
        f"{job.request.sparsity} in {count} of {len(patterns)} layers, "
        f"{'by ' + job.request.sparsity_method if mask_settings(job) else 'not yet trained'}: "
        f"drop {drop:.3f} {job.loaded.workload.unit} on held-out samples"
    )
    told = {name: None if pattern is None else str(pattern) for name, pattern in patterns.items()}
    facts = {"drop": drop, "skipped": None, "patterns": told, "permuted": moved.moved, "efficacy": moved.efficacy}
    files = [DENSE, SPARSE, DIAGNOSTICS] if mask_settings(job) is not None else [DENSE, SPARSE]
    job.run.finish_stage("sparse", files, {**values, **facts})
    shutil.rmtree(job.run.path / FOLDER, ignore_errors=True)


def _trained(job: Job, patterns: dict[str, Sparsity | None]) -> tuple[fx.GraphModule, float]:
    """The network with trained masks, and its drop; other processes are told to join in."""
    save_patterns(job, patterns)
    give_order(str(job.run.path.resolve()), MASKS)
    result = train(job)
    keep_result(job, result)
    return result.graph, job.evaluate(job.original) - job.evaluate(result.graph)


def _assigned(job: Job, graph: fx.GraphModule, prunable: dict[str, Sparsity | None]) -> dict[str, Sparsity | None]:
    """The pattern of each layer call: the least sum of output errors that keeps no more weights than 2:4 does."""
    candidates = {}
    by_weight = {row.weight: row for row in job.table.rows if prunable[row.name] is not None}
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
    chosen = assign(choices, budget)
    return {row.name: chosen[row.weight].pattern if row.weight in chosen else None for row in job.table.rows}


def _has_sparse_kernels(job: Job) -> bool:
    """Whether the device and its runtime gain time from 2:4 in some layer; sparser patterns would then only lose."""
    features = tuple(job.profile.arch.features)
    return any(
        work_left(
            job.runtime.value, row.op, DType.INT8, 2, 4, features=features,
            in_channels=reduction_length(row) * row.groups, out_channels=row.output_shape[-1 if linear else 1],
        ) < 1
        for row in job.table.rows
        for linear in (row.op is Op.LINEAR,)
    )  # fmt: skip
