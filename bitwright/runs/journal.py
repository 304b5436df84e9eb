"""Journal: the finished stages of a run with the hashes of what they wrote, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from bitwright.foundation.errors import OutputError
from bitwright.foundation.files import explain_os_error, sha256_file, write_text


class StageEntry(BaseModel):
    """One finished stage. `files` maps paths relative to the run folder to SHA-256; `seconds` is wall-clock time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stage: str
    files: dict[str, str]
    values: dict[str, JsonValue]
    seconds: float
    at: str


class Journal:
    """The stages finished so far, in order. A stage that is repeated makes those behind it unfinished.

    Not so where they are `independent` of each other.
    """

    def __init__(self, folder: Path, name: str = "journal.jsonl", *, independent: bool = False) -> None:
        self.path = folder / name
        self._independent = independent
        self._entries: dict[str, StageEntry] = {}

    def read(self) -> None:
        """Load the file; a last line that was cut off by a kill is dropped from it."""
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                entry = StageEntry.model_validate_json(line)
            except ValidationError as error:
                if number < len(lines):
                    raise OutputError(
                        f"{self.path} line {number} is damaged; start again with --overwrite, or choose another --out"
                    ) from error
                write_text(self.path, "".join(lines[:-1]))
                return
            self._remember(entry)
        if lines and not lines[-1].endswith("\n"):
            write_text(self.path, "".join(lines) + "\n")

    def append(self, stage: str, files: Mapping[str, str], values: Mapping[str, object], seconds: float) -> None:
        """Add a finished stage; it is on the disk when this returns. ValueError for values that JSON cannot hold."""
        text = json.dumps(dict(values), allow_nan=False)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        entry = StageEntry(stage=stage, files=dict(files), values=json.loads(text), seconds=round(seconds, 3), at=at)
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(entry.model_dump_json() + "\n")
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        self._remember(entry)

    def renew(self, stage: str, files: Mapping[str, str]) -> None:
        """New hashes for the files of a finished stage, which were made again to the same effect; the rest stays."""
        changed = self._entries[stage].model_copy(update={"files": dict(files)})
        self._entries[stage] = changed
        write_text(self.path, "".join(f"{entry.model_dump_json()}\n" for entry in self._entries.values()))

    def entry(self, stage: str) -> StageEntry | None:
        """What is known of a finished stage."""
        return self._entries.get(stage)

    def entries(self) -> tuple[StageEntry, ...]:
        """The finished stages in order."""
        return tuple(self._entries.values())

    def damaged_file(self, stage: str) -> str | None:
        """The first file of a finished stage that is missing or is not the one that was written."""
        for name, digest in self._entries[stage].files.items():
            path = self.path.parent / name
            try:
                if sha256_file(path) != digest:
                    return name
            except OSError:
                return name
        return None

    def drop(self, stage: str) -> tuple[str, ...]:
        """Forget a stage and all that were finished after it, which may rest on it; returns their names."""
        names = list(self._entries)
        gone = tuple(names[names.index(stage) :]) if stage in self._entries else ()
        gone = gone[:1] if self._independent else gone
        for name in gone:
            del self._entries[name]
        return gone

    def _remember(self, entry: StageEntry) -> None:
        self.drop(entry.stage)
        self._entries[entry.stage] = entry


def values_of(entry: StageEntry) -> dict[str, Any]:
    """A copy of the values that a stage left."""
    return json.loads(json.dumps(entry.values)) if entry.values else {}
