"""The folder of a search: continued as what it is, and left alone while another process works in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from bitwright.foundation.errors import OutputError, UsageError
from bitwright.runs.lock import FolderLock
from bitwright.runs.search_folder import REQUEST, prepare_folder


class Asked(BaseModel):
    out: Path
    steps: int = 1
    devices: tuple[str, ...] = ("a",)


def prepare(request: Asked, *, resume: bool = True) -> None:
    lock = FolderLock(request.out)
    try:
        prepare_folder(request, request.out, resume=resume, may_change=frozenset({"devices"}), lock=lock)
    finally:
        lock.release()


def test_a_folder_in_use_keeps_the_request_of_the_run_at_work(tmp_path: Path) -> None:
    run = tmp_path / "run"
    prepare(Asked(out=run), resume=False)
    begun = (run / REQUEST).read_bytes()
    other, lock = Asked(out=run, devices=("a", "b")), FolderLock(run)
    lock.acquire()
    with pytest.raises(OutputError, match="is in use by process"):
        prepare(other)
    assert (run / REQUEST).read_bytes() == begun
    lock.release()
    prepare(other)
    assert (run / REQUEST).read_bytes() != begun


def test_a_run_that_was_begun_between_the_check_and_the_lock_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, take = tmp_path / "run", FolderLock.acquire

    def late(lock: FolderLock) -> None:
        monkeypatch.setattr(FolderLock, "acquire", take)
        prepare(Asked(out=run, steps=2), resume=False)
        lock.acquire()

    monkeypatch.setattr(FolderLock, "acquire", late)
    with pytest.raises(UsageError, match="another steps"):
        prepare(Asked(out=run), resume=False)
    assert '"steps": 2' in (run / REQUEST).read_text()


def test_a_field_that_the_folder_does_not_know_of_had_its_default(tmp_path: Path) -> None:
    run = tmp_path / "run"
    prepare(Asked(out=run), resume=False)
    known = json.loads((run / REQUEST).read_text())
    del known["steps"]
    (run / REQUEST).write_text(json.dumps(known | {"gone": 3}))
    prepare(Asked(out=run))
    (run / REQUEST).write_text(json.dumps(known))
    with pytest.raises(UsageError, match="another steps"):
        prepare(Asked(out=run, steps=2))


def test_what_is_refused_leaves_nothing_and_a_lock_left_behind_is_no_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds no search"):
        prepare(Asked(out=run))
    assert [entry.name for entry in run.iterdir()] == ["notes.txt"]
    (run / "notes.txt").rename(run / "lock")
    prepare(Asked(out=run), resume=False)
    with pytest.raises(UsageError, match="continue it with --resume"):
        prepare(Asked(out=run), resume=False)
    with pytest.raises(UsageError, match="another steps"):
        prepare(Asked(out=run, steps=2))
