"""What a pruned network's files hold, checked on the final tensors, and what its zeros are worth in the runtime."""

from __future__ import annotations

import zlib
from pathlib import Path

from bitwright.foundation.errors import VerificationError
from bitwright.report.pruned import SparsityResult
from bitwright.runs.built import ENGINE, MODEL, Built
from bitwright.runs.job import Job
from bitwright.runs.mask_training import mask_result
from compress.graph import tensor
from compress.layer_table import LayerRow
from compress.sparsity.eligibility import reduction_length
from compress.sparsity.legality import check
from compress.sparsity.one_shot import sparse_weights
from compress.sparsity.pack_model import pack_model
from deploy.engine import SparseTactics
from deploy.engines import read_spec
from deploy.onnx_sparsity import read_nm
from hw_profiles import DType, Op
from hw_profiles.sparsity_support import SIZE_ONLY, why_size_only, work_left

PACKED = "packed.safetensors"


def sparse_facts(job: Job, built: Built) -> SparsityResult:
    """Verify the patterns of the compressed network and of its ONNX file, write the packed file, tell what is there.

    VerificationError where a layer does not keep its pattern. Only padding may break one, in the ONNX file: it puts
    zeros between the channels of concatenated tensors, and such layers are named.
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
    lost = {x.layer: x.reason for x in read_nm(file, patterns) if not x.holds}
    if lost and not built.padded:
        layer, reason = next(iter(lost.items()))
        raise VerificationError(f"layer {layer} of {ENGINE}/{file.name} is not {patterns[layer]}: {reason}")
    pack_model(job.run.path / MODEL, job.run.path / PACKED, weights)
    counts: dict[str, int] = {}
    for pattern in patterns.values():
        counts[str(pattern)] = counts.get(str(pattern), 0) + 1
    size_only, effect = _effect(job, built)
    return SparsityResult(
        asked=str(job.request.sparsity),
        layers=counts,
        dense={d.layer: d.reason for d in job.sparsity.values() if d.pattern is None},
        notes={d.layer: d.warning for d in job.sparsity.values() if d.warning},
        lost=lost,
        zeros=_zeros(built),
        size_only=size_only,
        effect=effect,
        raw_bytes=file.stat().st_size,
        deflated_bytes=_deflated(file),
        packed_bytes=(job.run.path / PACKED).stat().st_size,
        unpacked_bytes=(job.run.path / MODEL).stat().st_size,
    )


def _effect(job: Job, built: Built) -> tuple[bool, str]:
    """Whether no kernel gains time from the zeros, and that in words."""
    plan, features = built.model.plan, tuple(job.profile.arch.features)
    helped = 0
    for row in job.table.rows:
        layer = plan.layers[row.name]
        if layer.sparsity is not None:
            dtype = DType.INT8 if layer.quantized else DType(plan.float_precision)
            left = work_left(
                plan.runtime, row.op, dtype, layer.sparsity.n, layer.sparsity.m, features=features,
                in_channels=reduction_length(row) * row.groups, out_channels=_outputs(row),
            )  # fmt: skip
            helped += row.macs if left < 1 else 0
    told = _tactics(built.audit.sparse) if job.runtime.compiles else ""
    if not helped:
        why = why_size_only(plan.runtime)
        return True, f"N:M is {SIZE_ONLY} here: {plan.runtime} gains no time from zeros ({why}){told}"
    share = 100 * helped / job.table.macs
    return False, f"Sparse kernels exist for {share:.0f} % of the MACs; whether they help, only the latency tells{told}"


def _tactics(sparse: SparseTactics | None) -> str:
    if sparse is None:
        return "; the builder told nothing of layers that it found eligible or picked"
    return f"; the builder found {sparse.eligible} layers eligible and picked sparse kernels for {sparse.picked}"


def _outputs(row: LayerRow) -> int:
    return row.output_shape[-1 if row.op is Op.LINEAR else 1]


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
