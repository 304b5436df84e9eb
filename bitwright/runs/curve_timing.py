"""Timing sessions of a curve: a few engines at a time, each session with the float baseline among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.foundation.files import write_text
from bitwright.report.tradeoff_curve import Kind, PointLatency
from bitwright.runs.curve_points import BASELINE, Proposal
from bitwright.runs.job import Job
from bitwright.runs.stages import FLOAT
from deploy.latency import Candidate, ComparisonResult, LoadGate, measure
from deploy.latency.statistics import median

SESSIONS = "sessions"
TOGETHER = 5
"""Points of one session beside the baseline: few enough that a killed session is little lost, and that all engines stay
in memory."""


@dataclass(frozen=True)
class Session:
    """A finished session and its file, relative to the run folder."""

    file: str
    result: ComparisonResult


def time_points(job: Job, proposals: Sequence[Proposal]) -> None:
    """Time every proposal that no session on the disk holds; each session is on the disk before the next begins."""
    done = sessions(job)
    known = {m.name for session in done for m in session.result.measurements}
    waiting = [p for p in proposals if p.name not in known and p.kind is not Kind.BASELINE]
    # A session of its own measures the baseline where there is nothing else to time.
    batches = [waiting[i : i + TOGETHER] for i in range(0, len(waiting), TOGETHER)] or ([[]] if not done else [])
    for number, batch in enumerate(batches, start=len(done)):
        file = f"{SESSIONS}/{number:02d}.json"
        write_text(job.run.path / file, _timed(job, batch).model_dump_json() + "\n")
        job.run.finish_stage(_stage(number), [file], {"points": [p.name for p in batch]})


def sessions(job: Job) -> list[Session]:
    """The sessions on the disk, in order."""
    found: list[Session] = []
    while job.run.stage_done(_stage(len(found))):
        file = f"{SESSIONS}/{len(found):02d}.json"
        found.append(Session(file, ComparisonResult.model_validate_json((job.run.path / file).read_bytes())))
    return found


def baseline_ms(done: Sequence[Session]) -> float:
    """Median of all samples of the baseline, in ms."""
    return median([ms for session in done for ms in session.result.measurement(BASELINE).samples_ms])


def latency_of(proposal: Proposal, done: Sequence[Session]) -> PointLatency:
    """The latency of a point on the scale that all sessions share."""
    scale = baseline_ms(done)
    session = next(s for s in done if any(m.name == proposal.name for m in s.result.measurements))
    measurement = session.result.measurement(proposal.name)
    summary = measurement.to_summary()
    speed = session.result.speedup(proposal.name, BASELINE)
    return PointLatency(
        ms=scale / speed.ratio,
        low_ms=None if speed.high is None else scale / speed.high,
        high_ms=None if speed.low is None else scale / speed.low,
        speedup=speed.ratio,
        speedup_low=speed.low,
        speedup_high=speed.high,
        verdict=speed.verdict.value,
        session=session.file,
        session_ms=summary.median_ms,
        p90_ms=summary.p90_ms,
        n=summary.n,
        noisy=measurement.noisy,
    )


def _stage(number: int) -> str:
    return f"session {number:02d}"


def _timed(job: Job, batch: Sequence[Proposal]) -> ComparisonResult:
    request = job.request
    probe = job.run.path / "work" / "latency-input.npy"
    probe.parent.mkdir(parents=True, exist_ok=True)
    np.save(probe, job.loaded.workload.example_input(*job.input_size).numpy())
    seconds = request.measure_seconds
    candidates = [Candidate(p.name, job.run.path / p.engine) for p in batch]
    return measure(
        [Candidate(BASELINE, job.run.path / FLOAT), *candidates],
        input_file=probe,
        threads=request.threads,
        min_seconds=seconds,
        max_seconds=(12 * seconds + 60) * (1 + len(batch) / 2),
        seed=request.seed,
        percentiles=(50, 90),
        gate=LoadGate.for_session(seconds),
        block_seconds=min(0.25, seconds / 20),
    )
