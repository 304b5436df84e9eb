"""The command line. `main` is what the `bitwright` program calls; nothing is imported before it runs."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line on `arguments` (None: those of the process) and exit with its code."""
    from bitwright.cli.app import run

    raise SystemExit(run(arguments))
