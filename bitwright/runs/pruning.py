"""The stage of pruning, between the float baseline and quantisation; off unless N:M is asked for."""

from __future__ import annotations

import shutil

from torch import fx

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note
from bitwright.runs.job import DENSE, SPARSE, Job
from bitwright.runs.mask_training import DIAGNOSTICS, FOLDER, keep_result, mask_settings, save_patterns, train
from bitwright.runs.patterns import assigned, check_search
from bitwright.runs.request import AUTO
from bitwright.runs.sparse_kernels import in_vain
from bitwright.runs.stages import balanced_graph
from compress.graph import save_graph
from compress.nm_pattern import Sparsity
from compress.sparsity.one_shot import sparse_weights
from compress.sparsity.permutation import permute
from compress.sparsity.second_order import prune
from compress.training.processes import MASKS, NOTHING, give_order


def sparse(job: Job) -> None:
    """Balance and permute channels, then keep N of every M weights, and solve anew for those that are kept.

    Balancing comes first, because scales of input channels change the order of magnitudes within a group, by which
    channels are permuted. Masks are trained here, from the dense network, where the request gives them a share of the
    training, and the better one of the two networks goes on; reconstruction and recovery train under its masks.
    """
    if mask_settings(job) is None:
        give_order(NOTHING, MASKS)
    if job.request.sparsity is None:
        job.run.finish_stage("sparse", [], {"skipped": "not asked for"})
        return
    check_search(job)
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
    if job.request.sparsity in AUTO:
        patterns = assigned(job, moved.graph, patterns)
    if warning := in_vain(job.table, job.first_plan(), job.profile.arch):
        note(warning)
    result = prune(moved.graph, sparse_weights(moved.graph, job.table, patterns), job.calibration)
    drop = job.evaluate(job.original) - job.evaluate(result)
    values, how = dict(values), "not yet trained"
    save_graph(result, job.run.path / SPARSE)
    if mask_settings(job) is not None:
        trained, trained_drop = _trained(job, patterns)
        values |= {"untrained_drop": drop, "trained_drop": trained_drop}
        method, unit = job.request.sparsity_method, job.loaded.workload.unit
        if trained_drop <= drop:
            drop, how = trained_drop, f"by {method}"
            save_graph(trained, job.run.path / SPARSE)
        else:
            note(f"what {method} trained loses {trained_drop:.3f} {unit}, more than without training: it is left out")
    count = sum(pattern is not None for pattern in patterns.values())
    note(
        f"{job.request.sparsity} in {count} of {len(patterns)} layers, {how}: "
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
