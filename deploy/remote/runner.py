"""The runner of a bundle: checks it, times its engines as the harness does, and writes the samples as it goes.

`python3 BUNDLE [--out FOLDER]`; needs nothing but Python, numpy and the runtime. Started again, it goes on where it
was cut short, or follows the runner that is still at work.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bitwright.foundation.errors import BitwrightError
from bitwright.foundation.files import explain_os_error
from bitwright.foundation.progress import note, reporting_to
from deploy.remote.archive import Archive
from deploy.remote.printed_progress import PrintedProgress
from deploy.remote.runner_session import measure
from deploy.remote.sample_log import SAMPLES, SampleLog

_LOCK = "lock"
_UNPACKED = "files-"
_WORKER = "--worker"
_LOOK_SECONDS = 0.5


def main() -> int:
    """Run the bundle that this process was started from; returns the exit code."""
    bundle = Path(sys.argv[0]).absolute()
    if _WORKER in sys.argv[1:2]:
        from deploy.remote.runner_worker import main as serve_engine

        serve_engine(int(sys.argv[-1]))
        return 0
    parser = argparse.ArgumentParser(prog=f"python3 {bundle.name}", description="Time the engines of this bundle.")
    parser.add_argument("--out", type=Path, help="folder for the samples; by default beside the bundle")
    arguments = parser.parse_args()
    # A connection that drops takes neither the measurement nor its samples with it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with reporting_to(PrintedProgress(sys.stdout)):
            run(bundle, arguments.out or bundle.with_name(f"{bundle.stem}-results"))
    except BitwrightError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped; started again, the runner goes on from here\n")
        return 130
    return 0


def run(bundle: Path, out: Path) -> None:
    """Bring the measurement of `bundle` in the folder `out` to its end, whoever began it."""
    archive = Archive(bundle)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise explain_os_error(error, out) from error
    try:
        _take(lock, out / SAMPLES)
        log = SampleLog(out / SAMPLES)
        if log.ended:
            note(f"measured already; remove {out} to measure anew")
        else:
            _remove_unpacked(out)
            with tempfile.TemporaryDirectory(prefix=_UNPACKED, dir=out) as folder:
                measure(archive, log, Path(folder), worker=_worker_command(bundle))
        note(f"done: take {out / SAMPLES} back with `bitwright import`")
    finally:
        os.close(lock)


def _worker_command(bundle: Path) -> Sequence[str | Path]:
    return (sys.executable, bundle, _WORKER)


def _remove_unpacked(out: Path) -> None:
    """Remove the engines that a killed runner has left unpacked."""
    for left in out.glob(f"{_UNPACKED}*"):
        for file in left.iterdir():
            file.unlink()
        left.rmdir()


def _take(lock: int, samples: Path) -> None:
    """Take the lock of the folder; as long as another runner has it, tell how far that one is."""
    told = ""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            rounds = 0
            with suppress(OSError):
                rounds = samples.read_bytes().count(b'\n{"record": "round"')
            line = f"another runner is at work here, {rounds} rounds so far"
            if line != told:
                note(line)
            told = line
            time.sleep(_LOOK_SECONDS)
        else:
            with suppress(OSError):
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            return
