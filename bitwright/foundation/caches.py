"""Where what can be made again is kept from run to run."""

from __future__ import annotations

import os
from pathlib import Path

from bitwright.foundation.errors import OutputError
from bitwright.foundation.files import write_bytes


def cache_folder() -> Path:
    """`bitwright` in the user's cache folder, `$XDG_CACHE_HOME` or `~/.cache`; it need not exist."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(chosen) if chosen else Path.home() / ".cache") / "bitwright"


def read_cached(path: Path) -> bytes:
    """What is kept; nothing where there is nothing that can be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def keep_cached(path: Path, data: bytes) -> None:
    """Keep `data`; where the folder cannot be written nothing is kept, for it can be made again."""
    try:
        write_bytes(path, data)
    except OutputError:
        return
