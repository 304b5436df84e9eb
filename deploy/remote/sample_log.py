"""SampleLog: what a runner measures, one JSON object a line, written as it goes and closed by a seal.

Needs nothing but Python. Records: `head` (which bundle), `session` (environment), `ready` (engines loaded and warm),
`round` (one block of each engine), `end` (sealed by the SHA-256 of all bytes before it).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import explain_os_error

SAMPLES = "samples.jsonl"
SCHEMA_VERSION = 1

LARGEST_BYTES = 1 << 28
"""Of a log, and of a file beside it: more is neither written for a bundle nor taken from one."""

Record = dict[str, Any]


class SampleLog:
    """A log that is open for writing, with the records that it holds already."""

    def __init__(self, path: Path) -> None:
        """Open the file; a last line that was cut off by a kill is dropped from it. UsageError if it is damaged."""
        self.path = path
        self.records: list[Record] = []
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                self.records.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise UsageError(f"{path} line {number} is damaged; remove the file to measure anew") from error
        try:
            with path.open("ab") as handle:
                handle.truncate(len(whole))
        except OSError as error:
            raise explain_os_error(error, path) from error

    @property
    def ended(self) -> bool:
        """Whether the measurement is complete."""
        return bool(self.records) and self.records[-1].get("record") == "end"

    def of_kind(self, kind: str) -> list[Record]:
        """The records of one kind, in order."""
        return [record for record in self.records if record.get("record") == kind]

    def add(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append one record. It outlives this process at once, and the machine when the log is ended."""
        record = {"record": kind, **values}
        # Waiting for the disk after each round would heat up slow cards next to the timed region.
        self._write(json.dumps(record, allow_nan=False).encode() + b"\n", sync=False)
        self.records.append(record)

    def end(self, values: Mapping[str, Any]) -> None:
        """Append the last record, which seals all before it."""
        record = {"record": "end", **values, "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()}
        self._write(json.dumps(record, allow_nan=False).encode() + b"\n", sync=True)
        self.records.append(record)

    def _write(self, line: bytes, *, sync: bool) -> None:
        try:
            with self.path.open("ab") as handle:
                handle.write(line)
                if sync:
                    handle.flush()
                    os.fsync(handle.fileno())
        except OSError as error:
            raise explain_os_error(error, self.path) from error
