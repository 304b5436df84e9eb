"""What is done with files on the other machine. Its source is sent with `python3 -c`, so it needs nothing there.

Written in words that old versions of Python 3 understand: which one is there is only known once it has run.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

BUNDLE, PART = "bundle.pyz", "bundle.part"
DAMAGED = 9
"""Exit code of `receive` when what came is not what was sent."""


def probe(folder: str) -> None:
    """Print what is there: the hash of the bundle, and the hash and size of a part of it."""
    bundle, part = Path(folder, BUNDLE), Path(folder, PART)
    found = {
        "bundle": _hash(bundle) if bundle.is_file() else None,
        "part": _hash(part) if part.is_file() else None,
        "part_bytes": part.stat().st_size if part.is_file() else 0,
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def receive(folder: str, offset: str, digest: str) -> None:
    """Append stdin to the part, from `offset` on; when the whole has the hash `digest`, give it its name."""
    Path(folder).mkdir(0o700, parents=True, exist_ok=True)
    part = Path(folder, PART)
    with part.open("r+b" if part.is_file() else "w+b") as handle:
        handle.seek(int(offset))
        handle.truncate()
        shutil.copyfileobj(sys.stdin.buffer, handle, 1 << 16)
        handle.flush()
        os.fsync(handle.fileno())
        handle.seek(0)
        found = hashlib.sha256(handle.read()).hexdigest()
    if found != digest:
        sys.stderr.write("error: what arrived is not what was sent\n")
        raise SystemExit(DAMAGED)
    part.replace(Path(folder, BUNDLE))


def send(path: str) -> None:
    """Write a file to stdout."""
    with Path(path).open("rb") as handle:
        shutil.copyfileobj(handle, sys.stdout.buffer, 1 << 16)


def remove(folder: str) -> None:
    """Remove a folder that holds a bundle, with everything in it."""
    if Path(folder, BUNDLE).is_file():
        shutil.rmtree(folder)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(command: str, *words: str) -> None:
    """Carry out one command; an error of the system becomes one line and exit code 1."""
    try:
        if command == "probe":
            probe(*words)
        elif command == "receive":
            receive(*words)
        elif command == "send":
            send(*words)
        else:
            remove(*words)
    except OSError as problem:
        sys.stderr.write(f"error: {problem.filename or words[0]}: {problem.strerror or problem}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
