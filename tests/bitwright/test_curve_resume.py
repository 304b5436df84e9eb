"""A curve that is killed at random moments goes on: what is on the disk is neither built nor measured again."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from bitwright.cli.app import run
from bitwright.report.tradeoff_curve import TradeoffCurve
from tests.bitwright.curve_helpers import curve_words
from tests.bitwright.job_helpers import some_photos, tiny_checkpoint

KILLS = 3
ATTEMPTS = 6


def begun(words: list[str]) -> ForkServerProcess:
    """A curve in a process of its own, which has the heavy imports behind it."""
    context = multiprocessing.get_context("forkserver")
    assert isinstance(context, ForkServerContext)
    context.set_forkserver_preload(["bitwright.runs.curve", "torch._dynamo", "onnxscript"])
    process = context.Process(target=run, args=(words,))
    process.start()
    return process


def on_disk(folder: Path) -> dict[str, bytes]:
    """The finished sessions and the engines of finished points: what must never be made twice."""
    journal = folder / "journal.jsonl"
    found: dict[str, bytes] = {}
    for line in journal.read_text().splitlines() if journal.is_file() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["stage"].startswith(("session", "build")):
            found |= {name: (folder / name).stat().st_mtime_ns.to_bytes(8) for name in entry["files"]}
    return found


def killed_at_random(words: list[str], out: Path, moments: random.Random) -> None:
    """Kill a curve at a random moment. One that had ended before starts again, from the same folder, for less time."""
    before, known = out.with_name("before"), len(on_disk(out))
    for attempt in range(ATTEMPTS):
        if attempt > 0:
            shutil.rmtree(out, ignore_errors=True)
        if attempt == 0 and out.is_dir():
            shutil.copytree(out, before)
        elif before.is_dir():
            shutil.copytree(before, out)
        process = begun(words)
        deadline, wanted = time.monotonic() + 150, known + moments.randint(1, max(1, 12 >> attempt))
        while process.is_alive() and len(on_disk(out)) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        process.join(moments.uniform(0.1, 1.5) / 2**attempt)
        process.kill()
        process.join(10)
        if process.exitcode == -signal.SIGKILL:
            shutil.rmtree(before, ignore_errors=True)
            return
    pytest.fail(f"{ATTEMPTS} curves had ended before they were killed")


@pytest.mark.engine
def test_killed_at_random_moments_and_resumed(data: Path, tmp_path: Path) -> None:
    net, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos")
    out = tmp_path / "run"
    words = curve_words(net, photos, out, "--runtime", "onnxruntime", "--points", "2", "--resume")
    moments = random.Random(3)
    kept: dict[str, bytes] = {}
    for _ in range(KILLS):
        killed_at_random(words, out, moments)
        now = on_disk(out)
        assert {name: now.get(name) for name in kept} == kept
        kept = now
    assert kept
    last = begun(words)
    last.join(300)
    assert last.exitcode == 0
    now = on_disk(out)
    assert {name: now.get(name) for name in kept} == kept
    curve = TradeoffCurve.model_validate_json((out / "curve.json").read_bytes())
    sessions = [json.loads(path.read_text()) for path in sorted((out / "sessions").glob("*.json"))]
    timed = [m["name"] for session in sessions for m in session["measurements"] if m["name"] != curve.baseline]
    assert sorted(timed) == sorted(point.name for point in curve.points if point.name != curve.baseline)
    assert not list(out.rglob(".*.part"))
