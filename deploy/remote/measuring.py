"""Measuring on another machine: the bundle goes there, its runner runs there, the samples come back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitwright.foundation.errors import BitwrightError, ConstraintError, DeviceError, UsageError, VerificationError
from bitwright.foundation.files import sha256_file
from bitwright.foundation.progress import current, note
from deploy.remote import far_end
from deploy.remote.manifest import Manifest
from deploy.remote.printed_progress import parse_step
from deploy.remote.results import Results
from deploy.remote.sample_log import LARGEST_BYTES, SAMPLES
from deploy.remote.transport import Ended, Transport, printable

_RESULTS = "results"
_QUIET_SECONDS = 120.0
_LONGEST_LINE = 1 << 16
_SIGNALLED = 128
_KEPT = "what was measured is kept there: the same command goes on with it"
_ERRORS: dict[int, type[BitwrightError]] = {
    error.exit_code: error for error in (UsageError, ConstraintError, VerificationError, DeviceError)
}


@dataclass(frozen=True)
class FarBundle:
    """A bundle and the place that it has on another machine.

    `python`: the interpreter that runs it there. `folder`: the transport's own where none is given.
    """

    transport: Transport
    bundle: Path
    manifest: Manifest
    python: str = "python3"
    folder: str | None = None

    @property
    def place(self) -> str:
        """Folder of this very bundle there."""
        # What begins with a dash would be taken for an option.
        folder = self.transport.default_folder if self.folder is None else self.folder
        base = f"./{folder}" if folder.startswith("-") else folder
        return f"{base.rstrip('/')}/{self.manifest.digest[:16]}"

    def measure(self, target: Path) -> None:
        """Measure there, or go on with what was begun there, and write the samples to the file `target` here.

        What the runtime was seen to execute there comes with it, in files beside it; one that cannot be had is told of
        and left out.

        Raises DeviceError where the machine cannot be reached or the connection drops: the runner goes on there, and
        the next call takes up what it has measured. Errors of the runner come as they would here, with the machine's
        name.
        """
        self._copy()
        follower = _Follower()
        patience = 3 * self.manifest.protocol.timeout_seconds + _QUIET_SECONDS
        try:
            ended = self._ask(
                [f"{self.place}/{far_end.BUNDLE}", "--out", f"{self.place}/{_RESULTS}"], follower, patience
            )
        except DeviceError as error:
            raise DeviceError(f"{error}; {_KEPT}") from error
        finally:
            follower.close()
        if ended.code > _SIGNALLED:
            raise DeviceError(
                f"{self.transport.name}: the runner was killed there by signal {ended.code - _SIGNALLED}; {_KEPT}"
            )
        self._require(ended, "the runner")
        self._fetch(SAMPLES, target)
        told = Results.read(target).end.arms
        for arm in self.manifest.arms:
            if arm.executed is not None and arm.name in told and told[arm.name].executed is not None:
                self._fetch_executed(arm.executed, target.parent / arm.executed)

    def _fetch(self, name: str, target: Path) -> None:
        self._require(self._send(name, target), f"fetching {name}")

    def _fetch_executed(self, name: str, target: Path) -> None:
        """Fetch a file that no sample hangs on; where the connection drops, the next call fetches it."""
        try:
            ended = self._send(name, target)
            reason = "" if ended.code == 0 else ended.last_error
        except _TooMuchError as error:
            reason = str(error)
        if reason:
            target.unlink()
            note(f"warning: {self.transport.name}: fetching {name} failed ({reason}); what ran there is not audited")

    def _send(self, name: str, target: Path) -> Ended:
        """Let the other machine send one file of the results, into `target`."""
        with target.open("wb") as handle:
            return self._do("send", f"{self.place}/{_RESULTS}/{name}", sink=_Limited(handle))

    def remove(self) -> None:
        """Remove what lies there of this bundle, so that the next call measures anew."""
        self._require(self._do("remove", self.place, sink=_Limited()), "removing the bundle")

    def _copy(self) -> None:
        """Bring the bundle there, unless it is; of one that was cut off, only the rest is sent."""
        there = self._probe()
        digest = sha256_file(self.bundle)
        if there.bundle == digest:
            note(f"{self.transport.name} has the bundle already")
            return
        size = self.bundle.stat().st_size
        with self.bundle.open("rb", buffering=0) as source:
            head = source.read(there.part_bytes) if there.part_bytes < size else b""
            offset = len(head) if hashlib.sha256(head).hexdigest() == there.part else 0
            source.seek(offset)
            note(f"sending {size - offset} of {size} bytes to {self.transport.name}")
            ended = self._do("receive", self.place, str(offset), digest, sink=_Limited(), source=source)
        if ended.code == far_end.DAMAGED:
            raise DeviceError(
                f"{self.transport.name}: the bundle did not arrive whole; the same command sends the rest"
            )
        self._require(ended, "copying the bundle")

    def _probe(self) -> _There:
        """What is there, as `far_end.probe` tells; whatever a login prints before is passed over."""
        printed = _Limited()
        ended = self._do("probe", self.place, sink=printed)
        if ended.code in (126, 127):
            raise UsageError(
                f"{self.transport.name}: {self.python} cannot be run there ({ended.last_error}); "
                "name its Python with --python"
            )
        self._require(ended, self.python)
        try:
            return _There.model_validate_json(printed.content.rstrip(b"\n").rpartition(b"\n")[2])
        except ValidationError as error:
            raise DeviceError(f"{self.transport.name}: {self.python} does not answer as a Python does") from error

    def _do(self, *words: str, sink: _Limited, source: BinaryIO | None = None) -> Ended:
        code = Path(far_end.__file__).read_text(encoding="utf-8")
        return self.transport.run(
            [self.python, "-c", code, *words], source=source, sink=sink, silence_seconds=_QUIET_SECONDS
        )

    def _ask(self, words: Sequence[str], sink: _Follower, silence_seconds: float) -> Ended:
        return self.transport.run([self.python, *words], sink=sink, silence_seconds=silence_seconds)

    def _require(self, ended: Ended, what: str) -> None:
        """Raise the error that a command reported there."""
        if ended.code != 0:
            kind = _ERRORS.get(ended.code, DeviceError)
            told = ended.last_error.removeprefix("error: ")
            raise kind(f"{self.transport.name}: {what} failed: {told}")


class _There(BaseModel):
    """What `far_end.probe` finds: hashes of the bundle and of a part of it that was sent before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str | None
    part: str | None
    part_bytes: int = Field(ge=0)


class _TooMuchError(DeviceError):
    """Another machine sends more than it may."""


class _Limited:
    """Takes what another machine sends, up to a limit; into a file, or into memory."""

    def __init__(self, handle: BinaryIO | None = None) -> None:
        self.content = b""
        self._handle = handle
        self._left = LARGEST_BYTES if handle is not None else _LONGEST_LINE

    def __call__(self, received: bytes) -> None:
        self._left -= len(received)
        if self._left < 0:
            raise _TooMuchError("the other machine sends more than any runner writes; its answer was not taken")
        if self._handle is None:
            self.content += received
        else:
            self._handle.write(received)


class _Follower:
    """Makes the lines that a runner prints there the progress that is shown here."""

    def __init__(self) -> None:
        self._rest = b""
        self._task: tuple[str, int] | None = None
        self._done = 0

    def __call__(self, received: bytes) -> None:
        *lines, rest = (self._rest + received).split(b"\n")
        self._rest = rest[-_LONGEST_LINE:]
        for line in lines:
            self._show(printable(line.decode(errors="replace")))

    def close(self) -> None:
        """End the task that is open."""
        if self._task is not None:
            current().stop(self._task[1])
            self._task = None

    def _show(self, line: str) -> None:
        step = parse_step(line)
        if step is None:
            note(line)
            return
        description, done, total = step
        if self._task is None or self._task[0] != description:
            self.close()
            self._task, self._done = (description, current().start(description, total)), 0
        current().advance(self._task[1], max(0, done - self._done))
        self._done = max(done, self._done)
