"""What a pruned network's files hold, checked on the final tensors, and what its zeros are worth in the runtime."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

from bitwright.foundation.errors import VerificationError
from bitwright.report.pruned import SparsityResult
from bitwright.runs.built import ENGINE, MODEL, Built
from bitwright.runs.job import Job
from bitwright.runs.mask_training import mask_result
from bitwright.runs.sparse_kernels import effect
from compress.graph import tensor
from compress.nm_pattern import Sparsity
from compress.sparsity.eligibility import reduction_length
from compress.sparsity.legality import check
from compress.sparsity.one_shot import sparse_weights
from compress.sparsity.pack_model import pack_model
from deploy.engines import read_spec
from deploy.engines.exported_graph import ExportedGraph
from deploy.onnx_sparsity import read_nm

PACKED = "packed.safetensors"


def sparse_facts(job: Job, built: Built) -> SparsityResult:
    """Verify the patterns of the compressed network and of its ONNX file, write the packed file, tell what is there.

    VerificationError where a layer does not keep its pattern; but see `broken_by_padding`.
    """
    model, plan = built.model, built.model.plan
    patterns = dict(plan.sparse_layers)
    weights = sparse_weights(model.graph, job.table, patterns)
    for name, (pattern, layout) in weights.items():
        stored = model.weights.get(name)
        found = check(tensor(model.graph, name) if stored is None else stored.integers, pattern, layout)
        if not found.holds:
            raise VerificationError(f"weight {name} is not {pattern} after compression: {found.reason}")
    file = job.run.path / ENGINE / read_spec(job.run.path / ENGINE).onnx
    lengths = {row.name: reduction_length(row) for row in job.table.rows}
    lost = broken_by_padding(file, patterns, lengths)
    pack_model(job.run.path / MODEL, job.run.path / PACKED, weights)
    counts: dict[str, int] = {}
    for pattern in patterns.values():
        counts[str(pattern)] = counts.get(str(pattern), 0) + 1
    nodes = ExportedGraph.read(file).layers
    told = effect(job.table, plan, job.profile.arch, built.audit.sparse, nodes, compiled=job.runtime.compiles)
    return SparsityResult(
        asked=str(job.request.sparsity),
        layers=counts,
        dense={d.layer: d.reason for d in job.sparsity.values() if d.pattern is None},
        notes={d.layer: d.warning for d in job.sparsity.values() if d.warning},
        lost=lost,
        zeros=_zeros(built),
        size_only=told.size_only,
        effect=told.told,
        warning=told.warning,
        raw_bytes=file.stat().st_size,
        deflated_bytes=_deflated(file),
        packed_bytes=(job.run.path / PACKED).stat().st_size,
        unpacked_bytes=(job.run.path / MODEL).stat().st_size,
    )


def broken_by_padding(file: Path, patterns: Mapping[str, Sparsity], lengths: Mapping[str, int]) -> dict[str, str]:
    """Layers of an ONNX file whose patterns padding broke, and how: it puts zeros between concatenated channels.

    `lengths`: C / g of each layer ahead of padding. VerificationError for a layer that lost its pattern otherwise, or
    that cannot be judged.
    """
    lost = {}
    for found in read_nm(file, patterns):
        if found.holds:
            continue
        if found.legality is None or found.channels <= lengths[found.layer]:
            told = f"layer {found.layer} of {ENGINE}/{file.name} is not {patterns[found.layer]}"
            raise VerificationError(f"{told}: {found.reason}")
        lost[found.layer] = found.reason
    return lost


def _zeros(built: Built) -> float:
    zeros = sum(int((w.integers == 0).sum()) for w in built.model.weights.values())
    count = sum(w.integers.numel() for w in built.model.weights.values())
    for name in built.model.graph.state_dict():
        if name.endswith(".weight") and name not in built.model.weights:
            value = tensor(built.model.graph, name)
            zeros, count = zeros + int((value == 0).sum()), count + value.numel()
    return zeros / max(1, count)


def _deflated(path: Path) -> int:
    return len(zlib.compress(path.read_bytes(), 9))


def sparsity_section(job: Job) -> SparsityResult | None:
    """What the stage `engine` found of the zeros; None where no sparsity was asked for."""
    if job.request.sparsity is None:
        return None
    found = SparsityResult.model_validate(job.run.values("engine")["sparsity"])
    return found.model_copy(update={"training": mask_result(job)})
