"""Results on stdout: a table for people, or nothing but JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]


def write_line(text: str) -> None:
    """One text on stdout, closed by one newline."""
    sys.stdout.write(text.rstrip("\n") + "\n")


@contextmanager
def showing_progress() -> Iterator[None]:
    """Show progress on stderr inside the block."""
    from bitwright.cli.bars import terminal_reporter
    from bitwright.foundation.progress import reporting_to

    with terminal_reporter() as reporter, reporting_to(reporter):
        yield
