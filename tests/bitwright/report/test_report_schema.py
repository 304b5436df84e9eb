"""The schema of report.json: names fixed for readers, round trip, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from bitwright.report.schema import Picture, Report


def test_round_trip_keeps_every_value(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report
    earlier = report.to_json().replace('"quantized_layers"', '"planned_int8_layers"')
    assert "planned_int8_layers" in earlier
    assert Report.from_json(earlier) == report


@pytest.mark.parametrize(
    "path",
    [
        "schema", "device.id", "runtime.version", "quality.metric", "quality.float.mean", "quality.torch.mean",
        "quality.engine.per_image.baboon", "latency.engine.median_ms", "latency.engine.p90_ms", "latency.float.n",
        "latency.speedup.ratio", "latency.speedup.low", "latency.speedup.high", "audit.planned.int8",
        "audit.executed.int8", "audit.mismatches", "size.bytes", "bitops.planned", "environment.cpu", "command",
    ],
)  # fmt: skip
def test_json_has_the_promised_names(report: Report, path: str) -> None:
    value: Any = json.loads(report.to_json())
    for key in path.split("."):
        value = value[key]
    assert value is not None


def test_schema_version_is_written_as_schema(report: Report) -> None:
    dumped = json.loads(report.to_json())
    assert dumped["schema"] == 1
    assert "schema_version" not in dumped


@pytest.mark.parametrize("inside", [(), ("quality",), ("latency", "speedup"), ("layers", 0), ("limits",)])
def test_unknown_field_is_refused_everywhere(report: Report, inside: tuple[str | int, ...]) -> None:
    document: Any = json.loads(report.to_json())
    target = document
    for key in inside:
        target = target[key]
    target["surprise"] = 1
    with pytest.raises(ValidationError, match="surprise"):
        Report.from_json(json.dumps(document))


def edited(report: Report, path: tuple[str, ...], value: Any) -> str:
    """The JSON of `report` with one value replaced."""
    document: Any = json.loads(report.to_json())
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("quality", "drop"), 0.5, "drop is 0.5"),
        (("latency", "engine", "n"), 5, "n is 5 but there are 300 samples"),
        (("latency", "engine", "median_ms"), -1.0, "greater than or equal to 0"),
        (("quality", "engine", "mean"), float("nan"), "finite"),
        (("schema",), 2, "schema"),
        (("created",), "2026-01-02T03:04:00", "timezone"),
    ],
)
def test_inconsistent_values_are_refused(report: Report, path: tuple[str, ...], value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Report.from_json(edited(report, path, value))


@pytest.mark.parametrize("field", ["next_command", "layers"])
def test_report_is_frozen(report: Report, field: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(report, field, ())


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.png", "a/../../b.png"])
def test_picture_outside_the_run_folder_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="leaves the run folder"):
        Picture(name="x", low_res=path, float_png="f.png", engine_png="e.png", crop=(0, 0, 1, 1))
