"""Timing a finished run again, at another size or on other threads."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from bitwright.report.measured import Latency
from bitwright.report.text import ratio_interval
from bitwright.runs.built import ENGINE, PLAN
from bitwright.runs.job import Job
from bitwright.runs.proof import ENGINE_NAME, time_engines
from bitwright.runs.reopen import reopened, request_of
from bitwright.runs.reporting import latency_section, load_report
from bitwright.runs.runtime_choice import baseline_runtime
from bitwright.runs.stages import FLOAT
from compress.plan import Plan
from deploy.audit import Audit
from deploy.engines import load_engine, read_spec
from deploy.engines.sessions import opens
from deploy.environment import Environment, machine_differences, same_machine
from deploy.latency import ComparisonResult
from deploy.latency.comparison import Elsewhere
from deploy.latency.energy import Energy
from deploy.profiling.rows import timed_row
from hw_profiles import load_profile, why_foreign
from hw_profiles.latency_table import LatencyTable

MEASUREMENTS = "measurements"


class MeasureSummary(BaseModel):
    """One timing session of a run's engine and its float baseline. `machine` and `elsewhere`: where it was taken.

    `executed`: the audit of what the engine executed there, where its runtime told it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    file: str
    latency: Latency
    noise: tuple[str, ...]
    same_machine: bool
    machine: str
    elsewhere: Elsewhere | None
    emulator: str | None = None
    executed: Audit | None = None
    energy: Energy | None = None
    target_reached: bool = True
    table: str | None = None

    def lines(self) -> tuple[str, ...]:
        """The result in words."""
        timed = self.latency
        shape = "x".join(map(str, timed.input_shape))
        lines = [f"input {shape}, {timed.threads} thread(s), interleaved, in processes of their own"]
        if self.emulator is None:
            lines += self._times()
        else:
            lines.append(f"emulated by {self.emulator}: the outputs count, the times say nothing of a device")
        if self.elsewhere is not None:
            lines.append(f"measured on {self.machine}, sessions: {self.elsewhere.sessions}")
            differences = (f"{name} {value:.2g}" for name, value in self.elsewhere.output_differences.items())
            whose = "that of the network in torch here" if self.elsewhere.simulated else "the output here"
            lines.append(f"largest difference of the output there from {whose}: {', '.join(differences)}")
            lines.append(self._executed())
        if not self.same_machine:
            lines.append("warning: this is not the machine that the run's report was measured on")
        if self.table is not None:
            lines.append(f"added to the latency table {self.table}")
        return (*lines, f"samples: {self.file}")

    def require(self) -> None:
        """VerificationError, naming the layers, where the engine did not execute there as planned."""
        if self.executed is not None:
            self.executed.require()

    def _executed(self) -> str:
        if self.latency.engine.gpu is not None:
            return "executed precision audited when the engine was compiled, as the report tells it"
        if self.executed is None:
            return "executed precision not audited: the runtime, or what came back, does not tell it"
        found = ", ".join(f"{count} {precision}" for precision, count in self.executed.executed.items())
        kept = "executed there as planned" if not self.executed.mismatches else "executed there, not as planned"
        return f"{kept}: {found} ({self.executed.runtime} {self.executed.runtime_version})"

    def _times(self) -> list[str]:
        timed, lines = self.latency, []
        for name, stats in (("engine", timed.engine), (timed.baseline, timed.float)):
            p90 = "n/a" if stats.p90_ms is None else f"{stats.p90_ms:.2f}"
            lines.append(f"{name}: median {stats.median_ms:.2f} ms, p90 {p90} ms, n = {stats.n}")
            if stats.gpu is not None:
                lines.append(f"  {stats.gpu.words}")
        speed = timed.speedup
        lines.append(f"speed-up {speed.ratio:.2f} [{ratio_interval(speed.low, speed.high)}]: {speed.verdict}")
        if timed.noisy:
            lines.append(f"warning: {'; '.join(self.noise)}; treat these figures as rough")
        if self.energy is not None:
            lines += self.energy.lines()
        if not self.target_reached:
            lines.append("warning: the time was up before there were enough samples; give more --seconds")
        return lines


def measure(
    run: Path,
    *,
    threads: int,
    input_size: tuple[int, int],
    seconds: float,
    table: Path | None = None,
    energy: bool = False,
    cuda_graph: bool = False,
) -> MeasureSummary:
    """Time the engine and the baseline at `input_size` (height, width); the samples go to `measurements/`.

    `table`: a latency table that both times are added to. `energy`: also measure that; UsageError where it cannot be.
    `cuda_graph`: time what runs on a GPU as replayed CUDA graphs; UsageError where the engine does not.
    """
    with reopened(run) as job:
        job.require_timed()
        engine = load_engine(run / ENGINE, 1, device=job.profile)
        if cuda_graph:
            engine.use_cuda_graph()
        engine.require_here(f"; {job.there_or_by_hand}" if opens(job.runtime) else "")
        require_comparable(job)
        x = job.loaded.workload.example_input(*job.sized(input_size)).numpy()
        timed = time_engines(
            run, x, threads=threads, seconds=seconds, seed=job.request.seed, energy=energy, cuda_graph=cuda_graph
        )
    same_machine(Environment.model_validate(load_report(run).environment), timed.environment)
    return keep(run, timed, table)


def require_comparable(job: Job) -> None:
    """UsageError where a run's engine is for a GPU and its float baseline for the processor."""
    if read_spec(job.run.path / FLOAT).runtime is not baseline_runtime(job.profile, job.runtime):
        raise UsageError(
            f"{job.run.path} has its float baseline on the processor and its engine on a GPU; compress it anew"
        )


def keep(
    run: Path, timed: ComparisonResult, table: Path | None = None, executed: Audit | None = None
) -> MeasureSummary:
    """Write a session into a run's `measurements/`; one from elsewhere carries the fingerprint of its machine.

    `table`: a latency table to add to. UsageError, once the session is written, where it was emulated, or measured on
    a processor of another architecture than that of the run's device. `executed`: the audit of what was executed there.
    """
    first = timed.measurements[0]
    name = f"{'x'.join(map(str, first.input_shape))}-{first.threads}t"
    if any(measurement.gpu is not None and measurement.gpu.graph for measurement in timed.measurements):
        name += "-graph"
    if timed.elsewhere is not None:
        name += f"-{timed.environment.fingerprint}"
    file = run / MEASUREMENTS / f"{name}.json"
    write_text(file, timed.model_dump_json() + "\n")
    if executed is not None:
        write_text(file.with_name(f"{name}-audit.json"), executed.model_dump_json(indent=1) + "\n")
    if table is not None:
        _add(run, timed, table)
    report, there = load_report(run), timed.environment
    here = Environment.model_validate(report.environment)
    return MeasureSummary(
        run=str(run),
        file=str(file),
        latency=latency_section(timed),
        noise=tuple(dict.fromkeys(noise.value for m in timed.measurements for noise in m.noise)),
        # A run that timed nothing has nothing that another machine's times could be taken for.
        same_machine=report.latency is None or not machine_differences(here, there),
        machine=_machine(there),
        elsewhere=timed.elsewhere,
        emulator=there.emulator,
        executed=executed,
        energy=timed.energy,
        target_reached=timed.target_reached,
        table=None if table is None else str(table),
    )


def _machine(there: Environment) -> str:
    """A machine in words, with the GPUs that NVML told of."""
    gpus = "".join(f", {gpu.name}" for gpu in there.gpus)
    return f"{there.cpu_model}, {there.architecture}, {there.usable_cores} cores{gpus} ({there.fingerprint})"


def _add(run: Path, timed: ComparisonResult, table: Path) -> None:
    """Add the engine and its baseline to a latency table, named by what the engine is and by its artefact."""
    foreign = why_foreign(load_profile(request_of(run).device), timed.environment.architecture)
    if foreign is not None and timed.environment.emulator is None:
        raise UsageError(
            f"measured on {timed.environment.cpu_model}: {foreign}; such times enter no latency table of it"
        )
    report, plan = load_report(run), Plan.load(run / PLAN)
    count = len(plan.quantized_layers)
    whole = ("fp8" if plan.fp8 else "w4a16" if plan.weight_only else "int8") if count else plan.float_precision
    kinds = {ENGINE_NAME: "mixed" if 0 < count < len(plan.layers) else whole}
    rows = LatencyTable()
    for measurement in timed.measurements:
        kind = kinds.get(measurement.name, measurement.spec.float_precision.value)
        name = f"{kind}-{measurement.spec.artefact_sha256[:8]}"
        rows.add(timed_row(timed, measurement.name, report.model.architecture, name), table)
    note(f"{len(rows)} rows added to {table}")
