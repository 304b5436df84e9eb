"""RunFolder: all that one job reads and writes, in one place that can be resumed.

`request.yaml` holds the resolved request with the hashes of its input files, `journal.jsonl` the finished stages,
`log` every line of progress, `lock` the process at work.
"""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bitwright.foundation import progress
from bitwright.foundation.errors import BitwrightError, OutputError, UsageError
from bitwright.foundation.files import explain_os_error, sha256_file, write_text
from bitwright.recipes import dump_recipe, load_recipe
from bitwright.runs.inputs import InputHashes
from bitwright.runs.journal import Journal, values_of
from bitwright.runs.lock import LOCK, FolderLock
from bitwright.runs.options import option_name
from bitwright.runs.request import CompressRequest
from bitwright.runs.run_log import LoggingReporter, RunLog
from deploy.environment import Environment

REQUEST = "request.yaml"
JOURNAL = "journal.jsonl"
LOG = "log"
LAST_STAGE = "report"
"""The stage that ends a job."""
NEEDED_BYTES = 256 << 20
"""Free space that a job wants to find before it starts."""


class RunFolder:
    """A run folder that is open and locked. Use as a context manager: progress inside the block goes to `log` too.

    When the block fails on purpose (a BitwrightError) or is interrupted before the first stage has finished, what
    was made of the folder is removed again. An error that nobody foresaw leaves its traceback in `log`.
    """

    def __init__(self, path: Path, made: Sequence[Path], lock: FolderLock) -> None:
        self.path = path
        self.log_file = RunLog(path / LOG)
        self.journal = Journal(path, JOURNAL)
        self._made = made
        self._lock = lock
        self._since = time.monotonic()
        self._reporting = ExitStack()

    @classmethod
    def open(
        cls,
        request: CompressRequest,
        *,
        resume: bool = False,
        overwrite: bool = False,
        needed_bytes: int = NEEDED_BYTES,
    ) -> RunFolder:
        """Make or reopen the folder of `request`, lock it and prove that it can be written.

        `resume` goes on with what is there, `overwrite` removes it first.

        UsageError: a run is there that is finished, unfinished (without `resume`) or of another request; the message
        names what differs. OutputError: read-only, full, in use by another process, or a folder of other things.
        """
        inputs = InputHashes.of(request)
        path = request.run_folder
        _refuse_other_folder(path)
        made = _make(path)
        run = cls(path, made, FolderLock(path))
        fresh = False
        try:
            run._lock.acquire()
            fresh = not (path / REQUEST).is_file()
            _prove_writable(path, needed_bytes)
            if overwrite and not fresh:
                run._empty()
                fresh = True
            if not fresh:
                run._reopen(request, inputs, resume)
            else:
                if resume:
                    progress.note(f"nothing to resume in {path}: starting from the beginning")
                here = Environment.record()
                versions = {"python": here.python, **here.libraries}
                write_text(path / REQUEST, dump_recipe(request, inputs, versions))
            run.log_file.write(f"$ {request.command_line()}")
        except BaseException:
            run._close(undo=fresh)
            raise
        return run

    @classmethod
    def beside(cls, path: Path) -> RunFolder:
        """The folder that another process has open, to read only: without a lock, a log or an end."""
        run = cls(path, (), FolderLock(path))
        run.journal.read()
        return run

    @property
    def finished(self) -> bool:
        """Whether the whole job is done."""
        return self.journal.entry(LAST_STAGE) is not None

    def stage_done(self, name: str) -> bool:
        """Whether a stage is finished and its files are those it wrote; if not, later stages are not done either."""
        if self.journal.entry(name) is None:
            return False
        damaged = self.journal.damaged_file(name)
        if damaged is None:
            return True
        again = self.journal.drop(name)
        progress.note(f"{self.path / damaged} is not the file that was written; doing again: {', '.join(again)}")
        return False

    def finish_stage(self, name: str, files: Sequence[str | Path], values: Mapping[str, object]) -> None:
        """Record a stage with its files (relative to the folder, or inside it) and what later stages need to know."""
        hashes = {self._relative(file): sha256_file(self.path / file) for file in files}
        seconds = time.monotonic() - self._since
        self.journal.append(name, hashes, values, seconds)
        self.log_file.write(f"stage {name} done in {seconds:.1f} s")
        self._since = time.monotonic()

    def renew_stage(self, name: str, files: Sequence[str | Path]) -> None:
        """Record that the files of a finished stage were made again, so that what rests on it stays finished."""
        self.journal.renew(name, {self._relative(file): sha256_file(self.path / file) for file in files})

    def values(self, name: str) -> dict[str, Any]:
        """What a finished stage left; UsageError where it is not finished."""
        entry = self.journal.entry(name)
        if entry is None:
            raise UsageError(f"{self.path}: stage {name} is not finished; continue with --resume")
        return values_of(entry)

    def timings(self) -> dict[str, float]:
        """Wall-clock seconds of each finished stage, of earlier sessions too."""
        return {entry.stage: entry.seconds for entry in self.journal.entries()}

    def log(self, message: str) -> None:
        """Write one line to the log only."""
        self.log_file.write(message)

    def __enter__(self) -> Self:
        self._reporting.enter_context(progress.reporting_to(LoggingReporter(progress.current(), self.log_file)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reporting.close()
        foreseen = isinstance(error, BitwrightError | KeyboardInterrupt | OSError | MemoryError)
        if error is not None and not foreseen:
            self.log_file.write("".join(traceback.format_exception(error)))
            error.add_note(f"the full traceback is in {self.log_file.path}")
        elif error is not None and self.journal.entries():
            self.log_file.write(f"stopped: {error or type(error).__name__}")
        self._close(undo=foreseen and not self.journal.entries())

    def _reopen(self, request: CompressRequest, inputs: InputHashes, resume: bool) -> None:
        self.journal.read()
        done = self.finished
        different, moved = _differences(self.path / REQUEST, request, inputs)
        if different:
            raise UsageError(
                f"{self.path} holds a run of another request: {'; '.join(different)}; "
                "choose another --out, or --overwrite to replace it"
            )
        if done and not resume:
            raise UsageError(
                f"{self.path} holds the finished run of this very request; "
                f"see {self.path / request.page}, or --overwrite to do it again"
            )
        if not done and not resume:
            raise UsageError(
                f"{self.path} holds an unfinished run; add --resume to continue, or --overwrite to replace it"
            )
        if moved:
            progress.note(f"{self.path} goes on with the same files at other places: {', '.join(moved)}")
            versions = load_recipe(self.path / REQUEST, type(request)).versions
            write_text(self.path / REQUEST, dump_recipe(request, inputs, versions))
        for leftover in self.path.rglob(".*.part"):
            leftover.unlink(missing_ok=True)

    def _relative(self, file: str | Path) -> str:
        full = (self.path / file).resolve()
        if not full.is_relative_to(self.path.resolve()):
            raise UsageError(f"{full} does not lie in the run folder {self.path}")
        return full.relative_to(self.path.resolve()).as_posix()

    def _empty(self) -> None:
        for entry in self.path.iterdir():
            if entry.name != LOCK:
                _remove(entry)

    def _close(self, undo: bool) -> None:
        undo = undo and self._lock.held
        self.log_file.close()
        if undo:
            self._empty()
        self._lock.release()
        if undo:
            for folder in reversed(self._made):
                if not any(folder.iterdir()):
                    folder.rmdir()


def _refuse_other_folder(path: Path) -> None:
    """OutputError where `path` is a file, or a folder with things in it that no run has put there."""
    if path.is_file():
        raise OutputError(f"{path} is a file; choose another --out")
    if path.is_dir() and not (path / REQUEST).is_file():
        try:
            other = next((entry.name for entry in sorted(path.iterdir()) if entry.name not in (LOCK, LOG)), None)
        except OSError as error:
            raise explain_os_error(error, path) from error
        if other is not None:
            raise OutputError(f"{path} is not a run folder (it holds {other}); choose another --out")


def _differences(path: Path, request: CompressRequest, inputs: InputHashes) -> tuple[list[str], list[str]]:
    """What another request says, and the inputs that lie elsewhere: what counts of a file is its content."""
    recipe = load_recipe(path, type(request))
    before = type(request).model_validate({"out": request.out, **recipe.settings})
    found, moved = [], []
    for name in type(request).model_fields:
        old, new = getattr(before, name), getattr(request, name)
        if isinstance(new, Path) and isinstance(old, Path):
            old, new = old.absolute(), new.absolute()
        if name in request.changeable or old == new:
            continue
        content = getattr(recipe.inputs, name, None)
        if content is not None and content == getattr(inputs, name, None):
            moved.append(str(new))
        else:
            found.append(f"{option_name(name)} is {old} there and {new} here")
    for name in InputHashes.model_fields if not found and recipe.inputs is not None else ():
        if getattr(recipe.inputs, name) != getattr(inputs, name):
            found.append(f"the content of {option_name(name)} ({getattr(request, name)}) has changed since")
    return found, moved


def _make(path: Path) -> list[Path]:
    """Make the folder and those above it; returns the ones that were not there, outermost first."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()][::-1]
    made: list[Path] = []
    try:
        for folder in missing:
            folder.mkdir(exist_ok=True)
            made.append(folder)
    except OSError as error:
        for folder in reversed(made):
            folder.rmdir()
        raise explain_os_error(error, path) from error
    return made


def _prove_writable(path: Path, needed_bytes: int) -> None:
    try:
        free = shutil.disk_usage(path).free
        # Asking is not enough: quotas and read-only mounts only show when something is written.
        write_text(path / ".probe", "x" * 4096)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        (path / ".probe").unlink(missing_ok=True)
    if free < needed_bytes:
        raise OutputError(
            f"{path}: {free / 1e6:.0f} MB are free and a run needs {needed_bytes / 1e6:.0f} MB; "
            "free some space or choose another --out"
        )
    if not os.access(path, os.W_OK):
        raise OutputError(f"{path} cannot be written: permission denied; choose another --out")


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
