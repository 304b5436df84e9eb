"""What a user is told when something goes wrong: one line and an exit code."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from bitwright.foundation.errors import BitwrightError
from bitwright.foundation.files import explain_os_error

INTERRUPTED = 130


class StoppedError(BitwrightError):
    """The user stopped the command; the message says how to go on."""

    exit_code = INTERRUPTED


@contextmanager
def resumable() -> Iterator[None]:
    """Let Ctrl-C end in the line that tells how this very command goes on."""
    try:
        yield
    except KeyboardInterrupt as error:
        words = [word for word in sys.argv[1:] if word != "--resume"]
        raise StoppedError(f"stopped; continue with: {shlex.join(['bitwright', *words, '--resume'])}") from error


@dataclass(frozen=True)
class Failure:
    """The line for stderr and the exit code."""

    line: str
    code: int


def explain(error: BaseException) -> Failure | None:
    """How `error` is told; None for what ends the process on purpose (SystemExit)."""
    if isinstance(error, StoppedError):
        return Failure(_one_line(str(error)), error.exit_code)
    if isinstance(error, BitwrightError):
        return Failure(f"error: {_one_line(str(error))}", error.exit_code)
    if isinstance(error, typer.TyperException):
        return Failure(f"error: {_one_line(error.format_message())}", error.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Failure("stopped", INTERRUPTED)
    if isinstance(error, typer.Exit):
        return Failure("", error.exit_code) if error.exit_code else Failure("", 0)
    if isinstance(error, BrokenPipeError):
        # What reads our output has gone; the interpreter would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Failure("stopped: nobody reads the output", 1)
    if isinstance(error, OSError) and error.filename is not None:
        told = explain_os_error(error, Path(os.fsdecode(error.filename)))
        return Failure(f"error: {_one_line(str(told))}", told.exit_code)
    if isinstance(error, Exception):
        return Failure(f"error: {_unforeseen(error)}", 1)
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _unforeseen(error: Exception) -> str:
    notes = getattr(error, "__notes__", ())
    where = notes[-1] if notes else f"the full traceback is in {_save(error)}"
    return _one_line(f"unforeseen {type(error).__name__}: {error}; {where}")


def _save(error: Exception) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="bitwright-error-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name
