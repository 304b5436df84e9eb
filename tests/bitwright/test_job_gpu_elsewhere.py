"""A job for a GPU that is on another machine: built here, measured there, and its samples taken back.

There, stand-ins take the place of the package of TensorRT-RTX and of the driver; see `far_gpu`.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from deploy.engines import read_spec
from tests.bitwright.job_helpers import command, compress, for_a_gpu_elsewhere, read_json, some_photos, tiny_checkpoint
from tests.deploy.bundle_helpers import start
from tests.deploy.far_gpu import driver_environment, gpu_python
from tests.deploy.far_machine import start_server
from tests.marks import needs_compiler


def built(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run for a GPU."""
    checkpoint, photos, run = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos"), tmp_path / "run"
    ended = compress(capsys, checkpoint, photos, run, "--no-reconstruct", "--device", "rtx-4090")
    assert ended.code == 0, ended.err
    return run


@needs_compiler
@for_a_gpu_elsewhere
def test_what_is_built_here_is_measured_where_the_gpu_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = built(data, tmp_path, capsys)
    report = read_json(run / "report.json")
    there = f"bitwright measure {run} --on ssh://USER@HOST"
    assert report["next_command"] == there
    by_hand = f"From here: {there}, or by hand: bitwright bundle {run} --out FILE"
    assert [by_hand in warning for warning in report["warnings"]].count(True) == 1
    refused = command(capsys, "measure", run, "--seconds", "0.2").refusal(5)
    assert (
        f"(rtx-4090) and there is no GPU here: NVIDIA's driver finds no GPU; measure there, with `{there}`" in refused
    )

    file = tmp_path / "tiny.pyz"
    words = ("bundle", run, "--out", file, "--seconds", "0.1", "--input-size", "16x24", "--cuda-graph")
    bundled = command(capsys, *words)
    assert bundled.code == 0, bundled.err
    version = read_spec(run / "engine").runtime_version
    needs = f"numpy, tensorrt-rtx {version}, an NVIDIA GPU of compute capability 8.9 with its driver"
    assert f"needs there: Python 3.11 or later, {needs}" in bundled.out
    driver = driver_environment(tmp_path)
    measured = start(gpu_python(tmp_path / "venv", version), file, tmp_path / "results", **driver)
    assert measured.returncode == 0, measured.stderr

    table = tmp_path / "rtx.jsonl"
    taken = command(capsys, "import", tmp_path / "results", "--table", table)
    assert taken.code == 0, taken.err
    stages = "copy to the GPU 0.250 ms, computation 2.000 ms, as a CUDA graph, copy back 0.250 ms"
    assert taken.out.count(stages) == 2
    assert "TensorRT-RTX fp32: median" in taken.out
    assert "largest difference of the output there from that of the network in torch here: engine 0." in taken.out
    assert "executed precision audited when the engine was compiled, as the report tells it" in taken.out
    kinds = {json.loads(line)["plan"] for line in table.read_text().splitlines() if "plan" in json.loads(line)}
    assert {kind.partition("-")[0] for kind in kinds} == {"int8", "fp32"}
    (kept,) = (run / "measurements").glob("1x3x16x24-1t-graph-*.json")
    summary = json.loads(command(capsys, "import", tmp_path / "results", "--json").out)
    assert summary["file"] == str(kept)
    assert read_json(run / "report.json") == report


@needs_compiler
@for_a_gpu_elsewhere
def test_over_a_connection_it_is_one_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server").mkdir()
    server, there = start_server(tmp_path / "server"), tmp_path / "there"
    try:
        run = built(data, tmp_path, capsys)
        python = gpu_python(tmp_path / "venv", read_spec(run / "engine").runtime_version)
        driver = driver_environment(tmp_path)
        on = ("--on", server.address, "--ssh-config", server.config, "--remote-folder", there)
        words = ("measure", run, *on, "--seconds", "0.1", "--input-size", "16x24", "--python")
        ended = command(capsys, *words, with_environment(tmp_path / "its", python, driver))
        newer = with_environment(tmp_path / "newer", python, driver | {"FAKE_CAPABILITY": "120"})
        refused = command(capsys, *words, newer, "--cuda-graph")
    finally:
        server.stop()
    assert ended.code == 0, ended.err
    assert ended.out.count("copy to the GPU 0.250 ms, computation 2.000 ms, copy back 0.250 ms") == 2
    assert "power and temperature of the GPU are not recorded: NVML's package is not installed" in ended.err
    line = refused.refusal(5)
    assert "compute capability 8.9 (rtx-4090) and the GPU here has 12.0; for this one, compress with a --dev" in line
    assert server.address in line


def with_environment(file: Path, python: Path, environment: dict[str, str]) -> Path:
    """A program that starts `python` in an environment."""
    words = [f"{name}={value}" for name, value in environment.items()]
    file.write_text(f'#!/bin/sh\nexec env {shlex.join(words)} {shlex.quote(str(python))} "$@"\n')
    file.chmod(0o755)
    return file
