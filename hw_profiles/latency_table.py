"""LatencyTable: measured times of a device, one JSON line each: appendable, mergeable, with provenance.

Two kinds of lines: a kernel (`LatencyRow`) and a whole network with all kernels that it executes (`NetworkRow`).
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import explain_os_error, write_text
from bitwright.foundation.progress import note
from hw_profiles.kernel import Kernel
from hw_profiles.model import Part

ROW_SCHEMA = 1


class Quantiles(Part):
    """Quantiles and mean of a time, ms."""

    p10: float = Field(gt=0)
    p50: float = Field(gt=0)
    p90: float = Field(gt=0)
    mean: float = Field(gt=0)

    @staticmethod
    def of(samples_ms: Sequence[float]) -> Quantiles:
        """Of samples in ms, with linear interpolation between neighbours in rank."""
        ordered = sorted(samples_ms)
        if not ordered:
            raise ValueError("no samples, so no quantiles")

        def at(share: float) -> float:
            place = share * (len(ordered) - 1)
            low = int(place)
            high = min(low + 1, len(ordered) - 1)
            return ordered[low] + (place - low) * (ordered[high] - ordered[low])

        return Quantiles(p10=at(0.1), p50=at(0.5), p90=at(0.9), mean=sum(ordered) / len(ordered))


class MeasuredRow(Part):
    """What every line of a table says of where its time comes from."""

    schema_version: int = Field(default=ROW_SCHEMA, ge=1, le=ROW_SCHEMA)
    profile: str
    runtime: str
    runtime_version: str
    threads: int = Field(ge=1)
    ms: Quantiles
    n: int = Field(ge=1, description="timed calls")
    source: str = Field(description="network and plan, or grid, that the kernel was executed in")
    fingerprint: str = Field(description="environment that it was measured in")
    created: str
    noisy: bool = Field(default=False, description="others kept the machine busy while it was measured")


class LatencyRow(MeasuredRow):
    """One measured kernel. `ms` are quantiles over means of blocks of calls, so that one disturbed call counts once."""

    kind: Literal["kernel"] = "kernel"
    kernel: Kernel

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for rows that state the same time: kernel, source, runtime with version, threads and environment."""
        where = (self.runtime, self.runtime_version, str(self.threads), self.fingerprint)
        return (self.kernel.key, self.source, *where)


class NetworkRow(MeasuredRow):
    """One measured network: `ms` are quantiles of whole inferences, timed without the runtime's profiler.

    `kernels` are all calls of one inference in order; `kernel_ms` their times by the profiler, in the same order. Both
    are empty where an engine was only timed as a whole, as on another machine.
    """

    kind: Literal["network"] = "network"
    network: str
    plan: str = Field(description="short name of the plan: fp32, bf16, int8, mixed-0 ...")
    input_shape: tuple[int, ...]
    kernels: tuple[Kernel, ...]
    kernel_ms: tuple[float, ...]
    peak_rss_bytes: int | None = Field(default=None, description="of a process that ran nothing else")

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for rows that state the same time: network, plan, shape, runtime, threads and environment."""
        shape = "x".join(map(str, self.input_shape))
        where = (self.runtime, self.runtime_version, str(self.threads), self.fingerprint)
        return (self.network, self.plan, shape, *where)

    @property
    def kernels_share(self) -> float:
        """Sum of the kernels' times over the whole latency; far from 1, the kernels do not explain the network."""
        return sum(self.kernel_ms) / self.ms.p50


Row = LatencyRow | NetworkRow
_ROWS: TypeAdapter[Row] = TypeAdapter(Annotated[LatencyRow | NetworkRow, Field(discriminator="kind")])


class LatencyTable:
    """The rows of one or more files in the order read. Of rows with equal `identity`, the one read last counts.

    They are not pooled: a row holds quantiles, and quantiles of two sessions do not make those of both together. A
    kernel that several networks execute has a row for each, because what runs before it moves its time.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows: dict[tuple[str, ...], Row] = {}
        self._by_kernel: dict[tuple[str, str, int], dict[tuple[str, ...], LatencyRow]] = {}
        for row in rows:
            self._remember(row)

    @staticmethod
    def load(*paths: Path) -> LatencyTable:
        """Merge files, later ones over earlier ones; those that end in .gz are unpacked.

        A last line that was cut off by a kill is left out, with a note. UsageError, with file and line, for a file
        that cannot be read and for any other line that is no row.
        """
        return LatencyTable(row for path in paths for row in _read(Path(path)))

    def add(self, row: Row, path: Path | None = None) -> None:
        """Take in a row; with `path` also append it to that file, where it is on the disk when this returns."""
        if path is not None:
            append(Path(path), row)
        self._remember(row)

    def merged(self, other: LatencyTable) -> LatencyTable:
        """The rows of both, those of `other` over those of this one."""
        return LatencyTable([*self._rows.values(), *other._rows.values()])

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row: Row) -> bool:
        return row.identity in self._rows

    @property
    def kernels(self) -> tuple[LatencyRow, ...]:
        """The rows of kernels."""
        return tuple(row for row in self._rows.values() if isinstance(row, LatencyRow))

    @property
    def networks(self) -> tuple[NetworkRow, ...]:
        """The rows of whole networks."""
        return tuple(row for row in self._rows.values() if isinstance(row, NetworkRow))

    def lookup(self, kernel: Kernel, *, runtime: str, threads: int = 1) -> LatencyRow | None:
        """The row of a kernel, from whatever environment; of several the one with the (lower) median p50.

        None where the kernel was never measured on that runtime and number of threads.
        """
        found = self._by_kernel.get((kernel.key, runtime, threads), {})
        ordered = sorted(found.values(), key=lambda row: row.ms.p50)
        return ordered[(len(ordered) - 1) // 2] if ordered else None

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The environments that the rows were measured in, sorted."""
        return tuple(sorted({row.fingerprint for row in self._rows.values()}))

    def foreign_warning(self, fingerprint: str) -> str | None:
        """One line that says what share of the rows was measured elsewhere than in `fingerprint`; None: none was."""
        foreign = [row for row in self._rows.values() if row.fingerprint != fingerprint]
        if not foreign:
            return None
        where = ", ".join(sorted({f"{row.profile} ({row.fingerprint})" for row in foreign}))
        return (
            f"warning: {len(foreign)} of {len(self)} rows of the latency table were measured in another environment, "
            f"{where}, than this one ({fingerprint}); times may be off, measure here with `bitwright profile`"
        )

    def write(self, path: Path) -> None:
        """Write all rows as one file, replacing what is there."""
        write_text(path, "".join(f"{to_line(row)}\n" for row in self._rows.values()))

    def _remember(self, row: Row) -> None:
        self._rows.pop(row.identity, None)
        self._rows[row.identity] = row
        if isinstance(row, LatencyRow):
            same = self._by_kernel.setdefault((row.kernel.key, row.runtime, row.threads), {})
            same[row.identity] = row


def to_line(row: Row) -> str:
    """A row as one line of JSON without its line end; fields at their default are left out, schema and kind never."""
    data: dict[str, Any] = row.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({"kind": row.kind, "schema_version": row.schema_version} | data, separators=(",", ":"))


def append(path: Path, row: Row) -> None:
    """Add a row to a file; the rest of a line that a kill cut off before is closed first, so that no row is lost."""
    if path.suffix == ".gz":
        raise UsageError(f"the latency table {path} is packed and can only be read; unpack it with gunzip to add to it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            # Two sessions may write to one table; a line that is longer than a buffer must not be split by another.
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            torn = False
            if end:
                file.seek(end - 1)
                torn = file.read(1) != b"\n"
            file.write((b"\n" if torn else b"") + to_line(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise explain_os_error(error, path) from error


def _read(path: Path) -> Iterator[Row]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"the latency table {path} cannot be read ({why})") from error
    lines = content.decode(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _ROWS.validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "json_invalid":
                note(f"{path} line {number} was cut off and is left out; what it held will be measured again")
                continue
            where = ".".join(map(str, first["loc"])) or "line"
            raise UsageError(f"{path} line {number} is no row of a latency table: {where}: {first['msg']}") from error
