"""The folder of a search: its request in `request.json`, so that it is only continued as what it is."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_json

REQUEST = "request.json"


def prepare_folder(request: BaseModel, out: Path, *, resume: bool, may_change: frozenset[str] = frozenset()) -> None:
    """Make the folder `out` of a request, or reopen it; UsageError where it holds something else.

    `may_change`: fields that a continuation may have otherwise; the file is then that of the continuation.
    """
    described = json.loads(request.model_dump_json(exclude={"out"}))
    known = out / REQUEST
    if known.is_file():
        before = json.loads(known.read_text(encoding="utf-8"))
        changed = [n for n in described if n not in may_change and before.get(n) != described[n]]
        if changed:
            raise UsageError(f"{out} holds a run with another {changed[0]}; choose another --out")
        if not resume:
            raise UsageError(f"{out} holds this run already; continue it with --resume")
        if before != described:
            write_json(known, described)
        return
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no search; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(known, described)
