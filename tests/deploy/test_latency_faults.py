"""Workers that die, hang, chatter or are interrupted: one clear line each, and no worker is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from bitwright.foundation import progress
from bitwright.foundation.errors import DeviceError, UsageError, VerificationError
from deploy.latency import Candidate, LoadGate, WarmUp, measure

SHAPE = (1, 1, 4, 4)
NO_WAIT = LoadGate(wait_seconds=0.0, window_seconds=0.05)
BRIEF = WarmUp(min_runs=4, min_seconds=0.0, max_seconds=0.3)


@pytest.fixture(autouse=True)
def loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def workers() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "deploy.latency.worker" in child.cmdline()
    ]


def spin(folder: Path, name: str, spin_ms: float, loader: str = "load_spin", **settings: object) -> Candidate:
    place = folder / name
    place.mkdir()
    (place / "spin.json").write_text(json.dumps({"spin_ms": spin_ms, **settings}))
    return Candidate(name, place, loader=f"latency_engines:{loader}")


quick = partial(
    measure, input_shape=SHAPE, min_seconds=0.0, min_samples=10, warm_up=BRIEF, gate=NO_WAIT, block_seconds=0.01
)


def test_chatter_on_stdout_does_not_corrupt_the_replies(tmp_path: Path) -> None:
    result = quick([spin(tmp_path, "talkative", 0.5, fault="chatter")])
    assert len(result.measurement("talkative").samples_ms) >= 10


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("raise", VerificationError, r"engine 'bad': during 'run' it raised; .*kernel 'conv_7' does not exist"),
        ("segfault", DeviceError, r"engine 'bad': during 'run' its worker was killed by SIGSEGV"),
        ("exit", DeviceError, r"engine 'bad': during 'run' its worker ended with exit code 7"),
    ],
)
def test_a_worker_that_dies_is_one_clear_line(tmp_path: Path, fault: str, error: type[Exception], message: str) -> None:
    good, bad = spin(tmp_path, "good", 0.5), spin(tmp_path, "bad", 0.5, fault=fault, after=60)
    with pytest.raises(error, match=message) as caught:
        quick([good, bad], min_samples=1000, warm_up=WarmUp(min_runs=2, min_seconds=0.0, max_seconds=0.001))
    assert "\n" not in str(caught.value)
    assert workers() == []


def test_a_worker_that_hangs_is_ended_and_its_last_words_are_told(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"'stuck': no answer to 'run' within 3 s.* waiting for a lock"):
        quick([spin(tmp_path, "stuck", 0.5, fault="hang")], timeout_seconds=3.0)
    assert workers() == []


def test_an_error_of_the_loader_keeps_its_kind_and_exit_code(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"engine 'old': old/engine.json: artefact_sha256 does not match") as caught:
        quick([spin(tmp_path, "old", 1.0, loader="load_refused")])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("load_no_engine", "returned dict, not an Engine"),
        ("load_missing", "cannot be imported: module 'latency_engines' has no attribute 'load_missing'"),
    ],
)
def test_a_loader_that_is_none_is_refused(tmp_path: Path, loader: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        quick([spin(tmp_path, "engine", 1.0, loader=loader)])


class Interrupting:
    """A listener that interrupts the session as Ctrl-C does, once a round has been measured."""

    def __init__(self) -> None:
        self.seen: list[psutil.Process] = []

    def start(self, description: str, total: int | None) -> int:
        return int(description.startswith("measuring"))

    def advance(self, handle: int, steps: int = 1) -> None:
        if handle:
            self.seen = workers()
            raise KeyboardInterrupt

    def stop(self, handle: int) -> None:
        return None

    def note(self, message: str) -> None:
        return None


def test_an_interrupt_leaves_no_worker(tmp_path: Path) -> None:
    listener = Interrupting()
    with progress.reporting_to(listener), pytest.raises(KeyboardInterrupt):
        quick([spin(tmp_path, "a", 1.0), spin(tmp_path, "b", 1.0)])
    assert len(listener.seen) == 2
    assert workers() == []


def test_a_worker_ends_when_its_harness_is_gone() -> None:
    reader, writer = os.pipe()
    worker = subprocess.Popen(
        [sys.executable, "-m", "deploy.latency.worker", "--reply-fd", str(writer)],
        stdin=subprocess.PIPE,
        pass_fds=(writer,),
    )
    os.close(writer)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(30) == 0
    os.close(reader)
