"""The folder of a search: its request in `request.json`, so that it is only continued as what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_json
from bitwright.runs.lock import LOCK, FolderLock

REQUEST = "request.json"


def prepare_folder(
    request: BaseModel,
    out: Path,
    *,
    resume: bool,
    may_change: frozenset[str] = frozenset(),
    lock: FolderLock | None = None,
) -> None:
    """Make the folder `out` of a request, or reopen it; UsageError where it holds something else.

    `may_change`: fields that a continuation may have otherwise; the file is then that of the continuation. `lock` is
    taken before anything is written: OutputError where another process has it.
    """
    described = json.loads(request.model_dump_json(exclude={"out"}))
    fields = type(request).model_fields
    defaults = {n: fields[n].get_default(call_default_factory=True) for n in described if not fields[n].is_required()}
    before = _checked(described, defaults, out, resume, may_change)
    out.mkdir(parents=True, exist_ok=True)
    if lock is not None:
        lock.acquire()
        # Another process may have begun a run here and ended since.
        before = _checked(described, defaults, out, resume, may_change)
    if before != described:
        write_json(out / REQUEST, described)


def _checked(
    described: dict[str, Any], defaults: dict[str, Any], out: Path, resume: bool, may_change: frozenset[str]
) -> dict[str, Any] | None:
    """The request that the folder holds, None where it holds nothing; UsageError unless it may be gone on with.

    What an earlier version did not know of yet it did as it is done now by default.
    """
    known = out / REQUEST
    if not known.is_file():
        if out.exists() and any(entry.name != LOCK for entry in out.iterdir()):
            raise UsageError(f"{out} is not empty and holds no search; choose another --out")
        return None
    before: dict[str, Any] = json.loads(known.read_text(encoding="utf-8"))
    changed = [n for n in described if n not in may_change and before.get(n, defaults.get(n)) != described[n]]
    if changed:
        raise UsageError(f"{out} holds a run with another {changed[0]}; choose another --out")
    if not resume:
        raise UsageError(f"{out} holds this run already; continue it with --resume")
    return before
