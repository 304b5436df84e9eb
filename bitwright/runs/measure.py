"""Timing a finished run again, at another size or on other threads."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bitwright.foundation.files import write_text
from bitwright.report.measured import Latency
from bitwright.report.text import ratio_interval
from bitwright.runs.built import ENGINE
from bitwright.runs.proof import time_engines
from bitwright.runs.reopen import reopened
from bitwright.runs.reporting import latency_section, load_report
from deploy.engines import load_engine
from deploy.environment import Environment, same_machine


class MeasureSummary(BaseModel):
    """One timing session of a run's engine and its float baseline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    latency: Latency
    same_machine: bool

    def lines(self) -> tuple[str, ...]:
        """The result in words."""
        timed = self.latency
        shape = "x".join(map(str, timed.input_shape))
        lines = [f"input {shape}, {timed.threads} thread(s), interleaved, in processes of their own"]
        for name, stats in (("engine", timed.engine), (timed.baseline, timed.float)):
            p90 = "n/a" if stats.p90_ms is None else f"{stats.p90_ms:.2f}"
            lines.append(f"{name}: median {stats.median_ms:.2f} ms, p90 {p90} ms, n = {stats.n}")
        speed = timed.speedup
        lines.append(f"speed-up {speed.ratio:.2f} [{ratio_interval(speed.low, speed.high)}]: {speed.verdict}")
        if timed.noisy:
            lines.append("warning: the machine was busy; treat these figures as rough")
        if not self.same_machine:
            lines.append("warning: this is not the machine that the run's report was measured on")
        return tuple(lines)


def measure(run: Path, *, threads: int, input_size: tuple[int, int], seconds: float) -> MeasureSummary:
    """Time the engine and the baseline at `input_size` (height, width); the samples go to `measurements/`."""
    with reopened(run) as job:
        load_engine(run / ENGINE, 1, device=job.profile).require_here()
        x = job.loaded.workload.example_input(*job.sized(input_size)).numpy()
        timed = time_engines(run, x, threads=threads, seconds=seconds, seed=job.request.seed)
    name = f"{'x'.join(map(str, x.shape))}-{threads}t.json"
    write_text(run / "measurements" / name, timed.model_dump_json() + "\n")
    before = Environment.model_validate(load_report(run).environment)
    return MeasureSummary(
        run=str(run), latency=latency_section(timed), same_machine=same_machine(before, timed.environment)
    )
