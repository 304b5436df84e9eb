"""Event files for TensorBoard: what a search tells is what they hold, also when it is told twice."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from bitwright.cli.app import run
from bitwright.runs.event_log import PACKAGE, EventLog


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All scalars of the only event file: records of a length, its checksum, an event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    raw, at = file.read_bytes(), 0
    found: dict[str, list[tuple[int, float]]] = {}
    while at < len(raw):
        (length,) = struct.unpack_from("<Q", raw, at)
        event = Event.FromString(raw[at + 12 : at + 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        at += 12 + length + 4
    return found


def test_entries_become_scalars_and_a_continuation_replaces_them(tmp_path: Path) -> None:
    pytest.importorskip(PACKAGE)
    entries = [{"step": 2.0, "train": 0.5, "cost": 3.0}, {"step": 4.0, "train": 0.25, "cost": 2.0}]
    for count in (1, 2):
        log = EventLog(tmp_path / "events")
        hear = log.listener("search")
        for entry in entries[:count]:
            hear(entry)
        log.close()
    assert _scalars(tmp_path / "events") == {
        "search/train": [(2, 0.5), (4, 0.25)], "search/cost": [(2, 3.0), (4, 2.0)],
    }  # fmt: skip


def test_a_run_writes_its_history_as_events(data: Path, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGE)
    words = ["search", "quantnas", "--preset", "smoke", "--data", str(data / "sr" / "test" / "Set5"), "--width", "6",
             "--out", str(tmp_path / "run"), "--set", "epochs=1", "--set", "batch=2", "--set", "retrain.epochs=1",
             "--tensorboard"]  # fmt: skip
    assert run(words) == 0
    (point,) = (path.parent for path in (tmp_path / "run").glob("*/point.json"))
    scalars = _scalars(point / "events")
    assert [step for step, _ in scalars["search/train"]] == [1, 2, 3, 4]
    assert [step for step, _ in scalars["retraining/train"]] == [2, 4, 6]
    assert {"search/entropy", "search/cost", "search/derived_cost", "search/penalty"} <= set(scalars)
    assert all(value > 0 for _, value in scalars["search/cost"])


def test_without_the_package_one_line_says_what_to_install(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    words = ["search", "quantnas", "--preset", "smoke", "--data", str(data / "sr" / "test" / "Set5"),
             "--out", str(tmp_path / "run"), "--tensorboard"]  # fmt: skip
    assert run(words) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "pip install 'bitwright[logs]'" in error[0]
    assert not (tmp_path / "run").exists()
