"""Verifying a finished run again: the same file, the planned precisions, the same output as torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bitwright.foundation.errors import UsageError, VerificationError
from bitwright.foundation.files import sha256_file
from bitwright.runs.built import ENGINE, ONNX, audited
from bitwright.runs.float_part import agreement
from bitwright.runs.reopen import compressed_network, reopened, request_of
from deploy.audit import Audit
from deploy.engines import load_engine, read_spec
from deploy.verify import VerifyReport


class VerifySummary(BaseModel):
    """What was verified; made only when everything holds, because a failure is raised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    audit: Audit
    comparison: VerifyReport

    def lines(self) -> tuple[str, ...]:
        """The result in words."""
        executed = ", ".join(f"{count} {precision}" for precision, count in self.audit.executed.items())
        if self.audit.unknown_because is not None:
            told = f"executed precision not audited: {self.audit.unknown_because}"
        else:
            told = f"executed as planned: {executed} ({self.audit.runtime} {self.audit.runtime_version})"
        result = self.comparison
        return (
            told,
            f"{result.metric}: engine {result.engine.mean:.3f} {result.unit}, torch {result.torch.mean:.3f}, "
            f"gap {result.gap:+.3f} (tolerance {result.tolerance:g})",
            f"outputs differ by {result.mean_difference:.3g} on average, {result.max_difference:.3g} at most",
        )


def verify(run: Path, eval_data: Path | None = None) -> VerifySummary:
    """Check the engine's stamp, audit it and compare it with torch on `eval_data`, or on the run's own samples.

    Raises VerificationError when a layer did not execute as planned or the quality differs beyond the tolerance.
    """
    if eval_data is not None and not eval_data.is_dir():
        raise UsageError(f"--eval {eval_data} is not a folder")
    tolerance = request_of(run).tolerance
    with reopened(run) as job:
        model = compressed_network(job)
        _require_stamped(run / ENGINE)
        engine = load_engine(run / ENGINE, job.cores, device=job.profile)
        found = audited(job, engine, run / ONNX, model.plan)
        found.require()
        samples = job.eval_samples if eval_data is None else job.loaded.workload.samples(eval_data)
        comparison = agreement(model, engine, samples, job.loaded.workload, tolerance)
        comparison.require()
    return VerifySummary(run=str(run), audit=found, comparison=comparison)


def _require_stamped(folder: Path) -> None:
    spec = read_spec(folder)
    artefact = folder / spec.artefact
    if artefact.is_file() and sha256_file(artefact) != spec.artefact_sha256:
        raise VerificationError(f"{artefact} is not the file that was built and audited; build the run again")
