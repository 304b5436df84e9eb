"""The main job: a checkpoint and a device in, an audited engine with a report out."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bitwright.foundation.errors import ConstraintError, VerificationError
from bitwright.foundation.progress import note
from bitwright.report.schema import Report
from bitwright.runs import narrowing, proof, pruning, recovery, stages
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from bitwright.runs.reporting import load_report, report
from bitwright.runs.request import CompressRequest
from compress.training.processes import MASKS, NOTHING, give_order
from deploy.audit import Audit
from deploy.verify import TOLERANCES, within

STAGES: tuple[tuple[str, Callable[[Job], None]], ...] = (
    ("float", stages.float_baseline),
    ("narrowed", narrowing.narrowed),
    ("sparse", pruning.sparse),
    ("nearest", stages.nearest),
    ("reconstructed", stages.reconstructed),
    ("recovered", recovery.recovered),
    ("select", stages.select),
    ("engine", stages.build),
    ("quality", proof.quality),
    ("latency", proof.latency),
)
"""In order; a stage that is done is not repeated, a stage that was interrupted starts over or from its own journal."""


def compress(request: CompressRequest, *, resume: bool = False, overwrite: bool = False) -> Report:
    """Run the job in its run folder and return the report.

    Raises VerificationError when the engine does not execute what was planned or does not agree with torch, and
    ConstraintError when the allowed drop is not kept on the engine; all artefacts and the report are written first.
    """
    torch.manual_seed(request.seed)
    with RunFolder.open(request, resume=resume, overwrite=overwrite) as run:
        if run.stage_done("sparse"):
            give_order(NOTHING, MASKS)
        if run.stage_done("recovered"):
            give_order(NOTHING)
        if run.stage_done("report"):
            result = load_report(run.path)
        else:
            job = Job.open(request, run)
            if not run.stage_done(STAGES[0][0]):
                job.check_data()
            elif not run.stage_done("latency"):
                stages.renew_baseline(job, "quality")
            for name, stage in STAGES:
                if run.stage_done(name):
                    note(f"{name}: done before")
                    continue
                stage(job)
            result = report(job)
        require(result, Audit.model_validate_json((run.path / "audit.json").read_bytes()), request)
    return result


def require(result: Report, audited: Audit, request: CompressRequest) -> None:
    """Raise where the result does not hold what was promised; of an engine that was not run, only the audit is held."""
    audited.require()
    quality = result.quality
    if quality is None:
        return
    gap = quality.torch_engine_gap
    tolerance = TOLERANCES[quality.unit] if request.tolerance is None else request.tolerance
    if gap is not None and not within(gap, tolerance):
        raise VerificationError(
            f"{quality.metric} of the engine and of torch differ by {gap:.3f} {quality.unit}, "
            f"more than the tolerance of {tolerance:g}; see report.html"
        )
    if result.limits.reached is False:
        raise ConstraintError(
            f"the engine loses {quality.drop:.3f} {quality.unit} on {quality.dataset.folder}, more than the allowed "
            f"{request.max_drop:g}; the best engine so far was written (a larger --iterations may help)"
        )
