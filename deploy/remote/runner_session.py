"""One session of a runner: engines in processes of their own, warmed up, timed in rounds, each round logged.

The protocol is the harness's, from the same modules; what is logged here is made a `ComparisonResult` at home.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bitwright.foundation.errors import BitwrightError, UsageError
from bitwright.foundation.progress import note, track
from deploy.heat import read_heat
from deploy.latency.child_process import GOODBYE_SECONDS, ChildProcess, thread_environment
from deploy.latency.foreign_load import CpuReading, wait_for_quiet
from deploy.latency.rounds import SETTLE_RUNS, Samples, run_rounds
from deploy.machine import differences, read_machine
from deploy.nvidia_gpus import why_silent
from deploy.power_rails import energy_pass, require_rails
from deploy.remote.archive import Archive
from deploy.remote.sample_log import LARGEST_BYTES, SCHEMA_VERSION, SampleLog

Values = dict[str, Any]

_OF_SPEC = ("runtime", "runtime_version", "float_precision", "input_shape", "compute_capability", "profile")
"""What a worker is told of an engine's stamp."""


class EngineWorker(ChildProcess):
    """The process of one engine of the bundle; `environment` is added to what limits the threads."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        protocol: Values,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(
            name,
            command,
            log=log,
            environment={**thread_environment(protocol["threads"]), **environment},
            timeout_seconds=protocol["timeout_seconds"],
        )

    def say_goodbye(self) -> None:
        """Ask the worker to end."""
        self.ask("exit", timeout_seconds=GOODBYE_SECONDS)

    def ask(self, command: str, timeout_seconds: float | None = None, **values: object) -> Values:
        """Send a command and return its answer; the worker's own error where it reports one."""
        line = json.dumps({"command": command, **values})
        reply: Values = json.loads(self.exchange(command, line, timeout_seconds))
        if "failure" in reply:
            raise self.failure(reply["failure"], reply["exit_code"])
        return reply


@dataclass(frozen=True)
class Arm:
    """An engine at work. `facts`: what its worker told of loading and warming up."""

    worker: EngineWorker
    samples: Samples
    output: Path
    facts: Values

    def run_block(self) -> None:
        """Time one block."""
        block = self.worker.ask("run", count=self.samples.block_runs, settle=SETTLE_RUNS)
        self.samples.add(**block)

    def run_untimed(self) -> int:
        """Run one block that is not kept; the number of its runs."""
        return len(self.worker.ask("run", count=self.samples.block_runs, settle=0)["wall_ns"])

    def last_block(self) -> Values:
        """The samples of the block that was timed last."""
        size = self.samples.block_sizes[-1]
        block: Values = {"wall_ns": self.samples.wall_ns[-size:], "cpu_ns": self.samples.cpu_ns[-size:]}
        return block | ({"gpu_ms": self.samples.gpu_ms[-size:]} if self.samples.gpu_ms else {})


def measure(archive: Archive, log: SampleLog, folder: Path, *, worker: Sequence[str | Path]) -> None:
    """Time the engines of `archive`, which are unpacked into `folder`, and end the log.

    `worker` is the command that starts the process of an engine. What an earlier session has logged is kept and
    counted. UsageError where the log is of another bundle, or the machine is no longer the one of that session.
    """
    protocol: Values = archive.manifest["protocol"]
    gate: Values = protocol["gate"]
    rails = require_rails() if protocol["energy_seconds"] else []
    if any(arm["spec"]["compute_capability"] for arm in archive.manifest["arms"]):
        _tell_silent_gpus()
    machine = read_machine()
    _begin(archive, log, machine)
    past = len(log.of_kind("round"))
    if past:
        note(f"going on after {past} rounds")
    quiet_cores = gate["max_foreign_share"] * (os.cpu_count() or 1)
    foreign_before, waited = wait_for_quiet(quiet_cores, gate["wait_seconds"], gate["window_seconds"])
    with ExitStack() as stack:
        arms = _load(archive, log, folder, worker, stack)
        pids = [arm.worker.pid for arm in arms.values()]
        ready = {"environment": machine, "foreign_cores": foreign_before, "waited_seconds": waited}
        facts = {name: arm.facts for name, arm in arms.items()}
        log.add("ready", {**ready, "heat": read_heat(), "arms": facts})
        spent = sum(seconds for seconds, _ in session_ends(log))
        before = CpuReading.take(pids)
        target = {"min_seconds": protocol["min_seconds"], "min_samples": protocol["min_samples"]}
        rounds = run_rounds(
            [arm.samples for arm in arms.values()],
            lambda samples: arms[samples.name].run_block(),
            seed=protocol["seed"],
            max_seconds=max(0.0, protocol["max_seconds"] - spent),
            past=past,
            **target,
        )
        total = max(arm.samples.expected_rounds(arm.facts["warm_ns"], **target) for arm in arms.values()) - past
        for order in track(rounds, "measuring latency, interleaved", max(0, total)):
            now = CpuReading.take(pids)
            passed = {"seconds": now.wall - before.wall, "foreign_cores": before.foreign_cores_until(now)}
            log.add("round", {"order": order, "blocks": {n: a.last_block() for n, a in arms.items()}, **passed})
        told = {name: arm.worker.ask("info", output=str(arm.output)) for name, arm in arms.items()}
        ended: Values = {"heat": read_heat(), "arms": told}
        if rails:
            untimed = {name: arm.run_untimed for name, arm in arms.items()}
            ended["energy"] = energy_pass(rails, untimed, protocol["energy_seconds"])
        for arm in archive.manifest["arms"]:
            if arm.get("executed"):
                # Loading a network a second time takes memory and heat, so it comes after all that is measured.
                file = folder / arm["executed"]
                told[arm["name"]]["executed"] = _executed(arms[arm["name"]].worker, file, log.path.parent)
        log.end(ended)


def _tell_silent_gpus() -> None:
    reason = why_silent()
    if reason is not None:
        note(f"warning: clocks, power and temperature of the GPU are not recorded: {reason}")


def _executed(worker: EngineWorker, file: Path, out: Path) -> str | None:
    """Let a worker write what its runtime executes to `file`, and keep that in `out`; its SHA-256.

    None, with a note, where that fails: no sample hangs on it.
    """
    try:
        digest: str = worker.ask("executed", file=str(file))["executed"]
        if file.stat().st_size > LARGEST_BYTES:
            raise UsageError(f"it takes more than {LARGEST_BYTES >> 20} MiB")
        file.replace(out / file.name)
    except (BitwrightError, OSError) as error:
        note(f"warning: what engine {worker.name!r} executes here is not kept: {' '.join(str(error).split())}")
        return None
    return digest


def session_ends(log: SampleLog) -> list[tuple[float, float]]:
    """For each session that has run a round: its seconds of rounds, and the mean cores that others kept busy then."""
    ends: list[tuple[float, float] | None] = []
    for record in log.records:
        if record["record"] == "ready":
            ends.append(None)
        elif record["record"] == "round":
            ends[-1] = (record["seconds"], record["foreign_cores"])
    return [end for end in ends if end is not None]


def _begin(archive: Archive, log: SampleLog, machine: Values) -> None:
    head = next(iter(log.of_kind("head")), None)
    if head is None:
        log.add("head", {"schema_version": SCHEMA_VERSION, "bundle": archive.digest, "run": archive.manifest["run"]})
    elif head.get("bundle") != archive.digest:
        raise UsageError(f"{log.path} holds samples of another bundle; give another --out, or remove the file")
    for earlier in log.of_kind("ready")[:1]:
        changed = differences(earlier["environment"], machine)
        if changed:
            raise UsageError(
                f"this machine is not as it was when the measurement began ({'; '.join(changed)}); "
                f"remove {log.path} to measure anew"
            )


def _load(
    archive: Archive, log: SampleLog, folder: Path, worker: Sequence[str | Path], stack: ExitStack
) -> dict[str, Arm]:
    """Start, load and warm up every engine; each has the samples that earlier sessions have logged."""
    protocol: Values = archive.manifest["protocol"]
    x = archive.unpack(archive.manifest["input"], folder)
    arms: dict[str, Arm] = {}
    for arm in track(archive.manifest["arms"], "loading and warming up engines"):
        samples = Samples(arm["name"])
        for record in log.of_kind("round"):
            samples.add(**record["blocks"][samples.name])
        file, output = archive.unpack(arm["file"], folder), archive.unpack(arm["output"], folder)
        log_file = folder / f"{len(arms)}.log"
        process = stack.enter_context(EngineWorker(samples.name, worker, log_file, protocol))
        wanted = {key: arm["spec"][key] for key in _OF_SPEC}
        how = {"threads": protocol["threads"], "cuda_graph": protocol.get("cuda_graph", False)}
        facts = process.ask("load", file=str(file), input=str(x), **how, **wanted)
        patience = protocol["timeout_seconds"] + protocol["warm_up"]["max_seconds"]
        facts |= process.ask("warm_up", patience, policy=protocol["warm_up"])
        samples.size_blocks(facts["warm_ns"], protocol["block_seconds"])
        arms[samples.name] = Arm(process, samples, output, facts)
    return arms
