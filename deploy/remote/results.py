"""Results: a sample log from another machine, checked against its bundle and made a `ComparisonResult`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import sha256_file
from deploy.latency.comparison import ComparisonResult, Elsewhere
from deploy.latency.measurement import measurement_of, noise_of
from deploy.latency.rounds import MIN_ROUNDS, SETTLE_RUNS, Samples
from deploy.remote.manifest import Manifest
from deploy.remote.records import RECORDS, End, Head, Ready, Record, Round
from deploy.remote.sample_log import LARGEST_BYTES, SAMPLES


@dataclass(frozen=True)
class Session:
    """What one start of the runner measured."""

    ready: Ready
    rounds: tuple[Round, ...]


@dataclass(frozen=True)
class Results:
    """A complete sample log in its parts, in order."""

    path: Path
    head: Head
    sessions: tuple[Session, ...]
    end: End

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The rounds of all sessions."""
        return tuple(record for session in self.sessions for record in session.rounds)

    @staticmethod
    def read(path: Path) -> Results:
        """Read a log, or the one in a folder.

        UsageError, which names the file, where it is none, has no end yet, or is not as its runner wrote it.
        """
        file = path / SAMPLES if path.is_dir() else path
        try:
            if file.stat().st_size > LARGEST_BYTES:
                raise UsageError(f"{file} is larger than {LARGEST_BYTES >> 20} MiB; it holds no samples of a bundle")
            content = file.read_bytes()
        except OSError as error:
            raise UsageError(f"{file} cannot be read ({error.strerror}); give the samples of a bundle") from error
        lines = content.splitlines(keepends=True)
        records = [_record(file, number, line) for number, line in enumerate(lines, start=1)]
        if not records or not isinstance(records[0], Head):
            raise UsageError(f"{file} holds no samples of a bundle")
        end = records[-1]
        if not isinstance(end, End):
            raise UsageError(f"{file} is not complete; start the bundle there once more, and it goes on")
        if end.sha256 != hashlib.sha256(b"".join(lines[:-1])).hexdigest():
            raise UsageError(f"{file} is not as its runner wrote it: its seal does not fit; copy it again")
        sessions: list[Session] = []
        for record in records[1:-1]:
            if isinstance(record, Ready):
                sessions.append(Session(record, ()))
            elif isinstance(record, Round) and sessions:
                sessions[-1] = Session(sessions[-1].ready, (*sessions[-1].rounds, record))
            else:
                raise UsageError(f"{file}: its records are not in the order of a runner; measure anew")
        return Results(file, records[0], tuple(sessions), end)

    def comparison(self, manifest: Manifest) -> ComparisonResult:
        """What was measured; UsageError where it is not a measurement of the bundle of `manifest`."""
        self._check(manifest)
        protocol = manifest.protocol
        starts = [session.ready for session in self.sessions]
        environment, heat_before = starts[0].environment, starts[0].heat
        ends = [session.rounds[-1] for session in self.sessions if session.rounds]
        foreign_before = max(ready.foreign_cores for ready in starts)
        foreign_during = sum(e.foreign_cores * e.seconds for e in ends) / max(sum(e.seconds for e in ends), 1e-9)
        quiet = protocol.gate.max_foreign_share * environment.logical_cores
        heats = [*(ready.heat for ready in starts), self.end.heat]
        on_gpu = any(arm.spec.runtime.compiles for arm in manifest.arms)
        noise = noise_of(foreign_before, foreign_during, quiet, heats, gpus=on_gpu)
        samples = {arm.name: Samples(arm.name) for arm in manifest.arms}
        for record in self.rounds:
            for name, block in record.blocks.items():
                samples[name].add(block.wall_ns, block.cpu_ns, block.gpu_ms)
        measurements = []
        for arm in manifest.arms:
            first, last = starts[0].arms[arm.name], self.end.arms[arm.name]
            measurements.append(
                measurement_of(
                    samples[arm.name],
                    spec=arm.spec,
                    input_shape=manifest.input_shape,
                    output_shape=first.output_shape,
                    threads=protocol.threads,
                    affinity=last.affinity,
                    percentiles=protocol.percentiles,
                    warm_ns=first.warm_ns,
                    steady=all(ready.arms[arm.name].steady for ready in starts),
                    build_ms=None,
                    import_ms=first.import_ms,
                    load_ms=first.load_ms,
                    first_ns=first.first_ns,
                    rss_before_load_bytes=first.rss_before_load_bytes,
                    peak_rss_bytes=last.peak_rss_bytes,
                    noise=noise,
                    environment_fingerprint=environment.fingerprint,
                    cuda_graph=protocol.cuda_graph,
                )
            )
        return ComparisonResult(
            measurements=tuple(measurements),
            order=tuple(record.order for record in self.rounds),
            seed=protocol.seed,
            min_seconds=protocol.min_seconds,
            min_samples=protocol.min_samples,
            max_seconds=protocol.max_seconds,
            settle_runs=SETTLE_RUNS,
            target_reached=all(s.done(protocol.min_seconds, protocol.min_samples) for s in samples.values()),
            waited_seconds=sum(ready.waited_seconds for ready in starts),
            foreign_cores_before=foreign_before,
            foreign_cores_during=foreign_during,
            clock_mhz_after=self.end.heat.clock_mhz,
            heat_before=heat_before,
            heat_after=self.end.heat,
            energy=self.end.energy,
            elsewhere=Elsewhere(
                bundle=self.head.bundle,
                sessions=len(starts),
                output_differences={name: arm.output_difference for name, arm in self.end.arms.items()},
                simulated=tuple(arm.name for arm in manifest.arms if arm.simulated),
            ),
            environment=environment,
        )

    def executed(self, manifest: Manifest) -> dict[str, Path]:
        """By engine, the file that tells what its runtime executed there; those that were not brought are left out.

        UsageError for a file that is not as the runner wrote it.
        """
        found = {}
        for arm in manifest.arms:
            expected = self.end.arms[arm.name].executed
            if arm.executed is None or expected is None:
                continue
            file = self.path.with_name(arm.executed)
            if not file.is_file():
                continue
            if file.stat().st_size > LARGEST_BYTES or sha256_file(file) != expected:
                raise UsageError(f"{file} is not as its runner wrote it; copy it again")
            found[arm.name] = file
        return found

    def _check(self, manifest: Manifest) -> None:
        names = sorted(arm.name for arm in manifest.arms)
        if self.head.bundle != manifest.digest:
            raise UsageError(f"{self.path} was measured with another bundle ({self.head.bundle[:16]})")
        spent = sum(session.rounds[-1].seconds for session in self.sessions if session.rounds)
        # On a slow machine the time of the protocol is up earlier.
        if len(self.rounds) < (MIN_ROUNDS if spent < manifest.protocol.max_seconds else 1):
            raise UsageError(f"{self.path} holds {len(self.rounds)} rounds, and a runner ends after {MIN_ROUNDS}")
        groups: Sequence[Sequence[str]] = [
            *(list(session.ready.arms) for session in self.sessions),
            *(record.order for record in self.rounds),
            *(list(record.blocks) for record in self.rounds),
            list(self.end.arms),
            *([] if self.end.energy is None else [list(self.end.energy.arms)]),
        ]
        for group in groups:
            if sorted(group) != names:
                raise UsageError(f"{self.path} tells of engines {sorted(group)}, and its bundle holds {names}")
        for arm in manifest.arms:
            for record in self.rounds:
                if bool(record.blocks[arm.name].gpu_ms) != arm.spec.runtime.compiles:
                    raise UsageError(f"{self.path} does not tell the stages of just those runs that were on a GPU")
        changed = {session.ready.environment.fingerprint for session in self.sessions}
        if len(changed) > 1:
            raise UsageError(f"{self.path} holds sessions of different machines ({', '.join(sorted(changed))})")


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        return RECORDS.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "line"
        raise UsageError(f"{path} line {number} is no record of a runner: {where}: {first['msg']}") from error
