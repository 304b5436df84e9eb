"""What TensorRT logs: kept line by line, and its reasons for a failure. Needs nothing but Python."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

_ERROR = "ERROR"
"""In the names of the severities of errors, `ERROR` and `INTERNAL_ERROR`."""

_SHOWN = 2
_NOISE = ("checkMacros.cpp", "--- ")


def logger(api: ModuleType, *, errors_only: bool = False) -> Any:
    """A logger whose `lines` are (severity, text) of what it was told; its base class belongs to the package."""

    class Log(api.ILogger):  # type: ignore[misc, name-defined]
        """Keeps what it is told."""

        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            """Keep one line."""
            if not errors_only or _ERROR in severity.name:
                self.lines.append((severity.name, text))

    return Log()


def out_of_memory(lines: Sequence[tuple[str, str]]) -> bool:
    """Whether the GPU had no memory left, in the words of TensorRT or of the CUDA runtime in it."""
    return any(_ERROR in severity and ("OutOfMemory" in text or "out of memory" in text) for severity, text in lines)


def reasons(lines: Sequence[tuple[str, str]]) -> str:
    """The first errors in one line."""
    found = [text.splitlines()[0] for severity, text in lines if _ERROR in severity]
    kept = [text for text in found if not any(part in text for part in _NOISE)] or found
    return "; ".join(kept[:_SHOWN]) or "it gave no reason"
