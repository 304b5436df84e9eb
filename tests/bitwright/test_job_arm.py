"""A job for a board with another processor, from the checkpoint here to its samples there: emulated, and told so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from deploy.engine import Runtime
from tests.bitwright.job_helpers import command, compress, read_json
from tests.deploy.aarch64 import require_arm
from tests.deploy.bundle_helpers import start
from tests.deploy.far_machine import start_server
from tests.marks import needs_litert, on_x86

pytestmark = [pytest.mark.engine, on_x86]
PACKAGES = {Runtime.ONNXRUNTIME: "onnxruntime", Runtime.LITERT: "ai_edge_litert"}


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(Runtime.ONNXRUNTIME, marks=pytest.mark.long), pytest.param(Runtime.LITERT, marks=needs_litert)],
)
def test_what_is_compressed_here_executes_there_as_planned(
    runtime: Runtime, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = require_arm(PACKAGES[runtime])
    run, set5, file = tmp_path / "run", data / "sr" / "test" / "Set5", tmp_path / "espcn.pyz"
    more = ("--device", "raspberry-pi-5", "--runtime", runtime, "--eval", set5, "--no-reconstruct")
    ended = compress(capsys, data / "checkpoints" / "espcn_x4.pth", set5, run, *more)
    assert ended.code == 0, ended.err
    before = read_json(run / "report.json")
    assert before["audit"]["executed"] == {}
    assert before["latency"] is None
    words = ("bundle", run, "--out", file, "--seconds", "0.1", "--input-size", "16x16")
    bundled = command(capsys, *words)
    assert bundled.code == 0, bundled.err
    measured = start(python, file, tmp_path / "results")
    assert measured.returncode == 0, measured.stderr

    taken = command(capsys, "import", tmp_path / "results")
    assert taken.code == 0, taken.err
    shown = " ".join(taken.out.split())
    assert "emulated by qemu-aarch64: the outputs count, the times say nothing of a device" in shown
    assert "largest difference of the output there from the output here: engine" in shown
    assert "speed-up" not in shown
    assert "median" not in shown
    assert "executed there as planned: 3 int8" in shown
    assert "this is not the machine that the run's report was measured on" not in shown
    summary = json.loads(command(capsys, "import", tmp_path / "results", "--json").out)
    assert summary["executed"]["executed"] == {"int8": 3}
    # Sums are rounded in another order there, so that a value may fall to the next integer of a quantiser.
    assert summary["elsewhere"]["output_differences"]["float"] < 1e-4
    assert summary["elsewhere"]["output_differences"]["engine"] < 0.05
    table = tmp_path / "pi.jsonl"
    refused = command(capsys, "import", tmp_path / "results", "--table", table).refusal()
    assert "measured under emulation (qemu-aarch64)" in refused
    assert not table.exists()
    assert read_json(run / "report.json") == before


def test_times_of_another_processor_enter_no_table_and_are_not_taken_twice(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, set5, there = tmp_path / "run", data / "sr" / "test" / "Set5", tmp_path / "there"
    more = ("--device", "raspberry-pi-5", "--runtime", "onnxruntime", "--no-reconstruct")
    assert compress(capsys, data / "checkpoints" / "espcn_x4.pth", set5, run, *more).code == 0
    (tmp_path / "server").mkdir()
    server, table = start_server(tmp_path / "server"), tmp_path / "pi.jsonl"
    try:
        on = ("--on", server.address, "--ssh-config", server.config, "--python", sys.executable)
        short = ("--remote-folder", there, "--seconds", "0.1", "--input-size", "32x32")
        refused = command(capsys, "measure", run, *on, *short, "--table", table).refusal()
    finally:
        server.stop()
    assert "raspberry-pi-5 is for aarch64 processors, and this one is x86_64" in refused
    assert "such times enter no latency table of it" in refused
    assert not table.exists()
    assert list((run / "measurements").glob("*.json")), "what was measured is kept here"
    assert list(there.iterdir()) == [], "and not there, where the next call would take it again"
