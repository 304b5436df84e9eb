"""FolderLock: one job at a time in a run folder. The kernel drops the lock with its process, so none is ever stale."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from bitwright.foundation.errors import OutputError
from bitwright.foundation.files import explain_os_error
from bitwright.foundation.progress import note

LOCK = "lock"


class FolderLock:
    """An advisory lock on a file of a folder, which names the process that holds it."""

    def __init__(self, folder: Path, name: str = LOCK) -> None:
        self.path = folder / name
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._handle is not None

    def acquire(self) -> None:
        """Take the lock; OutputError names the process that has it, or says why the folder cannot be written."""
        while self._handle is None:
            try:
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise explain_os_error(error, self.path) from error
            try:
                self._take(handle)
            except BaseException:
                os.close(handle)
                raise

    def release(self) -> None:
        """Remove the file and give the lock back."""
        if self._handle is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    def _take(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{self.path.parent} is in use by {_owner(handle)}; wait for it, stop it, or choose another --out"
            ) from error
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        if not _still_there(handle, self.path):
            # Its last holder removed the file between our open and our lock; the next one opens the new file.
            os.close(handle)
            return
        left_behind = os.pread(handle, 1, 0)
        if left_behind:
            note(f"{self.path.parent} was left by {_owner(handle)}, which is gone")
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, text, 0)
            os.fsync(handle)
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        self._handle = handle


def _still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _owner(handle: int) -> str:
    try:
        owner = json.loads(os.pread(handle, 1024, 0))
        return f"process {int(owner['pid'])} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
