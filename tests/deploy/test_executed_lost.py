"""What tells what was executed can be lost on its way, and the samples that it belongs to cannot be lost with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from bitwright.foundation import progress
from bitwright.foundation.errors import DeviceError
from deploy.remote import FarBundle, Results, Transport, measuring
from deploy.remote import bundle as bundle_module
from deploy.remote.transport import Ended
from tests.deploy.bundle_helpers import Bundle, make_bundle, start
from tests.deploy.far_machine import clean_environment
from tests.listener import Listener

ORT = "deploy/engines/onnxruntime_session.py"
WRITES = b"OnnxRuntimeSession(self._path, self._threads, optimized=path)"
LIMIT = b"LARGEST_BYTES = 1 << 28"


@pytest.fixture
def kept(quantized_file: Path, float_file: Path, tmp_path: Path) -> Callable[[], Bundle]:
    return lambda: make_bundle(tmp_path / "bundle", quantized_file, float_file)


@pytest.mark.parametrize(
    ("file", "good", "bad", "told"),
    [
        (ORT, WRITES, b"raise MemoryError", "it raised; it last printed"),
        (ORT, WRITES, b"__import__('os').kill(__import__('os').getpid(), 9)", "its worker was killed by SIGKILL"),
        ("deploy/remote/sample_log.py", LIMIT, b"LARGEST_BYTES = 1", "it takes more than 0 MiB"),
    ],
)
def test_a_runner_that_cannot_tell_what_is_executed_ends_its_measurement(
    kept: Callable[[], Bundle],
    file: str,
    good: bytes,
    bad: bytes,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = bundle_module.runner_sources()
    assert sources[file].count(good) == 1
    monkeypatch.setattr(bundle_module, "runner_sources", lambda: sources | {file: sources[file].replace(good, bad)})
    bundle = kept()
    ended = start(sys.executable, bundle.file, tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert "warning: what engine 'engine' executes here is not kept" in ended.stdout
    assert told in ended.stdout
    assert_measured(tmp_path / "out", bundle)


def test_a_file_that_cannot_be_written_there_costs_nothing_else(kept: Callable[[], Bundle], tmp_path: Path) -> None:
    bundle = kept()
    (tmp_path / "out" / str(bundle.manifest.arms[0].executed)).mkdir(parents=True)
    ended = start(sys.executable, bundle.file, tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert "warning: what engine 'engine' executes here is not kept" in ended.stdout
    assert_measured(tmp_path / "out", bundle)


def assert_measured(out: Path, bundle: Bundle) -> None:
    results = Results.read(out)
    assert results.end.arms["engine"].executed is None
    assert results.executed(bundle.manifest) == {}
    assert len(results.comparison(bundle.manifest).measurement("engine").samples_ms) >= 29


class Here(Transport):
    """This machine. `spoil`: what happens instead when the file of what was executed is asked for."""

    default_folder = "."
    name = "here"

    def __init__(self, spoil: Callable[[Callable[[bytes], None]], int] | None = None) -> None:
        self._spoil = spoil
        self.asked: list[str] = []

    def run(
        self,
        arguments: list[str],
        *,
        source: BinaryIO | None = None,
        sink: Callable[[bytes], None],
        silence_seconds: float,
    ) -> Ended:
        if arguments[-2] == "send":
            self.asked.append(Path(arguments[-1]).name)
            if self._spoil is not None and "executed" in self.asked[-1]:
                return Ended(self._spoil(sink), "error: no more\n")
        done = subprocess.run(arguments, stdin=source, capture_output=True, check=False, env=clean_environment())
        sink(done.stdout)
        return Ended(done.returncode, done.stderr.decode())


def gone(sink: Callable[[bytes], None]) -> int:
    return 1


def endless(sink: Callable[[bytes], None]) -> int:
    for _ in range(3):
        sink(b"x" * (1 << 20))
    return 0


def drops(sink: Callable[[bytes], None]) -> int:
    raise DeviceError("here: the connection was lost")


def test_a_file_that_cannot_be_fetched_is_told_and_left_out(
    kept: Callable[[], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "LARGEST_BYTES", 2 << 20)
    bundle = kept()
    name = str(bundle.manifest.arms[0].executed)
    for number, (spoil, told) in enumerate(((gone, "no more"), (endless, "sends more than any runner writes"))):
        target, listener = tmp_path / str(number) / "samples.jsonl", Listener()
        target.parent.mkdir()
        with progress.reporting_to(listener):
            far(Here(spoil), bundle, tmp_path).measure(target)
        assert any(f"warning: here: fetching {name} failed" in note and told in note for note in listener.notes)
        assert Results.read(target).end.arms["engine"].executed is not None
        assert Results.read(target).executed(bundle.manifest) == {}
    # The same command fetches it when the connection is there again.
    target = tmp_path / "samples.jsonl"
    with pytest.raises(DeviceError, match="the connection was lost"):
        far(Here(drops), bundle, tmp_path).measure(target)
    far(Here(), bundle, tmp_path).measure(target)
    assert list(Results.read(target).executed(bundle.manifest)) == ["engine"]


def test_only_what_the_log_tells_of_is_fetched(kept: Callable[[], Bundle], tmp_path: Path) -> None:
    bundle = kept()
    machine = far(here := Here(), bundle, tmp_path)
    (Path(machine.place, "results") / str(bundle.manifest.arms[0].executed)).mkdir(parents=True)
    machine.measure(tmp_path / "samples.jsonl")
    assert here.asked == ["samples.jsonl"]


def far(transport: Transport, bundle: Bundle, folder: Path) -> FarBundle:
    return FarBundle(transport, bundle.file, bundle.manifest, python=sys.executable, folder=str(folder / "there"))
