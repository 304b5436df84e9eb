"""A client program of this machine, such as ssh or adb, through which a command of another machine is talked to."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from bitwright.foundation.errors import DeviceError
from deploy.remote.transport import Ended

_ERRORS_KEPT = 1 << 16
_LOOK_SECONDS = 1.0


def talk(
    command: Sequence[str],
    machine: str,
    *,
    source: BinaryIO | None,
    sink: Callable[[bytes], None],
    silence_seconds: float,
) -> Ended:
    """Run a client to its end: its own exit code, and the last of what it printed on stderr.

    `source` becomes its stdin, and its stdout goes to `sink` as it comes. DeviceError, with the name of the `machine`,
    where nothing moves in any direction for `silence_seconds`.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if source is None else source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    errors = bytearray()
    try:
        _pump(process, machine, source, sink, errors, silence_seconds)
        code = process.wait(silence_seconds)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{machine}: {Path(command[0]).name} did not end within {silence_seconds:g} s") from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    return Ended(code, errors.decode(errors="replace"))


def _pump(
    process: subprocess.Popen[bytes],
    machine: str,
    source: BinaryIO | None,
    sink: Callable[[bytes], None],
    errors: bytearray,
    silence_seconds: float,
) -> None:
    """Pass on what the client prints until it has closed both streams; DeviceError where nothing moves for too long."""
    assert process.stdout is not None
    assert process.stderr is not None
    moved, sent = time.monotonic(), -1
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(_LOOK_SECONDS):
                received = os.read(key.fd, 1 << 16)
                moved = time.monotonic()
                if not received:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    sink(received)
                else:
                    errors += received
                    del errors[:-_ERRORS_KEPT]
            # The client reads from the same open file, so its position tells how much has left.
            position = -1 if source is None else os.lseek(source.fileno(), 0, os.SEEK_CUR)
            if position != sent:
                moved, sent = time.monotonic(), position
            if time.monotonic() - moved > silence_seconds:
                raise DeviceError(f"{machine}: nothing has moved for {silence_seconds:g} s; the connection was closed")
