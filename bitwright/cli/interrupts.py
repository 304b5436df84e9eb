"""Ctrl-C comes again where Python drops it: in a finaliser or a callback."""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections.abc import Iterator

_AGAIN_SECONDS = 0.05
"""Once whatever dropped it has returned."""


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """While it lasts, an interrupt that Python would only report as ignored is raised again in the main thread."""
    usual = sys.unraisablehook

    def again(dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            threading.Timer(_AGAIN_SECONDS, _thread.interrupt_main).start()
        else:
            usual(dropped)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = usual
