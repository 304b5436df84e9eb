"""Samples that come back are believed only whole, unchanged, and for the bundle that they were measured with."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitwright.foundation.errors import UsageError
from deploy.latency import Noise
from deploy.remote import Results
from deploy.remote.sample_log import SAMPLES
from tests.deploy.bundle_helpers import Bundle, start

Record = dict[str, Any]


@pytest.fixture(scope="module")
def samples(bundle: Bundle) -> Path:
    ended = start(sys.executable, bundle.file, bundle.file.parent / "out")
    assert ended.returncode == 0, ended.stderr
    return bundle.file.parent / "out" / SAMPLES


def records_of(samples: Path) -> list[Record]:
    return [json.loads(line) for line in samples.read_text().splitlines()]


def sealed(path: Path, records: list[Record]) -> Path:
    """A log of these records whose seal fits: what somebody would write who knows how a runner does it."""
    body = "".join(json.dumps(record) + "\n" for record in records[:-1])
    end = {**records[-1], "sha256": hashlib.sha256(body.encode()).hexdigest()}
    path.write_text(body + json.dumps(end) + "\n")
    return path


def test_a_log_rebuilt_from_its_records_is_the_same(samples: Path, bundle: Bundle, tmp_path: Path) -> None:
    again = sealed(tmp_path / "again.jsonl", records_of(samples))
    assert again.read_bytes() == samples.read_bytes()
    assert Results.read(again).comparison(bundle.manifest) == Results.read(samples.parent).comparison(bundle.manifest)


def test_every_sample_is_in_the_measurement_in_its_order(samples: Path, bundle: Bundle) -> None:
    rounds = [record for record in records_of(samples) if record["record"] == "round"]
    result = Results.read(samples).comparison(bundle.manifest)
    for name in ("engine", "float"):
        expected = [ns / 1e6 for record in rounds for ns in record["blocks"][name]["wall_ns"]]
        assert list(result.measurement(name).samples_ms) == expected
    assert [list(names) for names in result.order] == [record["order"] for record in rounds]
    last = rounds[-1]
    assert result.foreign_cores_during == pytest.approx(last["foreign_cores"])


def test_changed_samples_do_not_fit_their_seal(samples: Path, tmp_path: Path) -> None:
    records = records_of(samples)
    faster = next(record for record in records if record["record"] == "round")
    faster["blocks"]["engine"]["wall_ns"][0] = 1
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(UsageError, match=r"x\.jsonl is not as its runner wrote it: its seal does not fit"):
        Results.read(tmp_path / "x.jsonl")


def drop_the_end(records: list[Record]) -> None:
    records.pop()


def name_another_bundle(records: list[Record]) -> None:
    records[0]["bundle"] = "0" * 64


def rename_an_engine(records: list[Record]) -> None:
    for record in records:
        for key in ("arms", "blocks"):
            if "engine" in record.get(key, {}):
                record[key]["other\x1b[2J"] = record[key].pop("engine")


def lose_rounds(records: list[Record]) -> None:
    del records[3:-1]


def lose_samples(records: list[Record]) -> None:
    records[2]["blocks"]["engine"]["cpu_ns"].pop()


def add_a_field(records: list[Record]) -> None:
    records[2]["note"] = "measured by hand"


def put_a_round_first(records: list[Record]) -> None:
    records[1], records[2] = records[2], records[1]


def claim_negative_time(records: list[Record]) -> None:
    records[2]["blocks"]["engine"]["wall_ns"][0] = -5


def mix_machines(records: list[Record]) -> None:
    ready = json.loads(json.dumps(records[1]))
    ready["environment"]["cpu_model"] = "another"
    records.insert(3, ready)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (name_another_bundle, r"was measured with another bundle \(0000"),
        (rename_an_engine, "tells of engines"),
        (lose_rounds, "holds 1 rounds, and a runner ends after 10"),
        (lose_samples, "wall_ns and cpu_ns differ in length"),
        (add_a_field, "line 3 is no record of a runner"),
        (put_a_round_first, "not in the order of a runner"),
        (claim_negative_time, "line 3 is no record of a runner: .*greater than 0"),
        (mix_machines, "sessions of different machines"),
    ],
)
def test_samples_with_a_fitting_seal_are_still_checked(
    samples: Path, bundle: Bundle, tmp_path: Path, change: Callable[[list[Record]], None], told: str
) -> None:
    records = records_of(samples)
    change(records)
    path = sealed(tmp_path / "x.jsonl", records)
    with pytest.raises(UsageError, match=told) as caught:
        Results.read(path).comparison(bundle.manifest)
    assert str(path) in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_slow_machine_may_end_with_few_rounds_once_its_time_is_up(
    samples: Path, bundle: Bundle, tmp_path: Path
) -> None:
    records = records_of(samples)
    lose_rounds(records)
    records[2]["seconds"] = bundle.manifest.protocol.max_seconds
    result = Results.read(sealed(tmp_path / "x.jsonl", records)).comparison(bundle.manifest)
    assert not result.target_reached
    assert len(result.order) == 1


def test_samples_without_an_end_say_how_to_go_on(samples: Path, tmp_path: Path) -> None:
    cut = b"".join(samples.read_bytes().splitlines(keepends=True)[:-1])
    (tmp_path / SAMPLES).write_bytes(cut)
    with pytest.raises(UsageError, match="is not complete; start the bundle there once more"):
        Results.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x00\xff", b'{"record": "end"}\n', b"[]\n"])
def test_what_is_no_log_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(UsageError, match=r"photo\.png"):
        Results.read(tmp_path / "photo.png")
    with pytest.raises(UsageError, match=r"samples\.jsonl cannot be read"):
        Results.read(tmp_path)


def test_a_machine_that_throttled_in_a_session_that_was_cut_short_is_stamped(
    samples: Path, bundle: Bundle, tmp_path: Path
) -> None:
    records = records_of(samples)
    again = {**records[1], "heat": {**records[1]["heat"]}}
    # Another session from the fourth round on; the machine was started anew before it, and its count with it.
    records.insert(5, again)
    for record, events in ((records[1], 7), (again, 0), (records[-1], 0)):
        record["heat"]["throttle_events"] = events
    quiet = Results.read(sealed(tmp_path / "quiet.jsonl", records)).comparison(bundle.manifest)
    assert quiet.elsewhere is not None
    assert quiet.elsewhere.sessions == 2
    assert all(Noise.THROTTLED not in m.noise for m in quiet.measurements)
    records[-1]["heat"]["throttle_events"] = 2
    warm = Results.read(sealed(tmp_path / "warm.jsonl", records)).comparison(bundle.manifest)
    assert all(Noise.THROTTLED in m.noise for m in warm.measurements), "fewer than at first, but since the new start"
    records[-1]["heat"]["throttle_events"] = 0
    again["heat"]["held_back"] = True
    held = Results.read(sealed(tmp_path / "held.jsonl", records)).comparison(bundle.manifest)
    assert all(Noise.THROTTLED in m.noise for m in held.measurements)


def test_a_throttled_machine_and_a_busy_one_are_stamped(samples: Path, bundle: Bundle, tmp_path: Path) -> None:
    records = records_of(samples)
    records[1]["heat"]["throttle_events"], records[-1]["heat"]["throttle_events"] = 3, 4
    records[1]["foreign_cores"] = 100.0
    for record in records[2:-1]:
        record["foreign_cores"] = 0.0
    result = Results.read(sealed(tmp_path / "x.jsonl", records)).comparison(bundle.manifest)
    noise = result.measurement("engine").noise
    assert Noise.THROTTLED in noise
    assert Noise.FOREIGN_LOAD_BEFORE in noise
    assert Noise.FOREIGN_LOAD_DURING not in noise
    assert result.heat_after is not None
    assert result.heat_after.throttle_events == 4


def test_a_gpu_that_is_held_back_does_not_disturb_engines_on_the_processor(
    samples: Path, bundle: Bundle, tmp_path: Path
) -> None:
    records = records_of(samples)
    gpu = {"clock_mhz": 900.0, "memory_clock_mhz": 1.0, "temperature_c": 80.0, "throttle_reasons": ["power cap"]}
    quiet = {"throttle_events": None, "held_back": None, "gpus": [gpu]}
    for record in (records[1], records[-1]):
        record["heat"] |= quiet
    result = Results.read(sealed(tmp_path / "x.jsonl", records)).comparison(bundle.manifest)
    assert result.heat_after is not None
    assert result.heat_after.gpus[0].held_back
    assert all(Noise.THROTTLED not in measurement.noise for measurement in result.measurements)
