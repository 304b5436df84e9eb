"""A job that is killed at five moments and resumed each time ends with the plan and the bytes of one never stopped."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from bitwright.cli.app import run
from bitwright.runs.journal import Journal
from tests.bitwright.job_helpers import DEVICE, QUICK, some_photos, tiny_checkpoint

ARTEFACTS = ("plan.json", "model.safetensors", "model.onnx", "engine/model.onnx", "engine/engine.json", "audit.json")
KILLED_IN = ("float", "nearest", "reconstructed", "engine", "latency")
ITERATIONS = 150
ATTEMPTS = 6


def finished(journal: Path, stage: str) -> bool:
    return journal.is_file() and f'"stage":"{stage}"' in journal.read_text()


def job(words: list[str], resume: bool) -> ForkServerProcess:
    """A job in a process of its own, which has the heavy imports behind it."""
    context = multiprocessing.get_context("forkserver")
    assert isinstance(context, ForkServerContext)
    context.set_forkserver_preload(["bitwright.runs.compress", "torch._dynamo", "onnxscript"])
    process = context.Process(target=run, args=([*words, "--resume"] if resume else words,))
    process.start()
    return process


def kill_in(out: Path, words: list[str], stage: str, before: list[str], delay: float, resume: bool) -> None:
    """Kill a job `delay` seconds into a stage. One that was faster than that starts again from the same folder."""
    kept = out.with_name("kept")
    for attempt in range(ATTEMPTS):
        if resume and attempt == 0:
            shutil.copytree(out, kept)
        elif attempt > 0:
            shutil.rmtree(out)
            if resume:
                shutil.copytree(kept, out)
        process = job(words, resume)
        deadline = time.monotonic() + 150
        while before and not finished(out / "journal.jsonl", before[-1]) and time.monotonic() < deadline:
            time.sleep(0.01)
        if stage == "reconstructed":  # right behind a block, so that the next turn has one to go on from
            blocks = out / "work" / "blocks"
            while not any(blocks.glob("*.safetensors")) and process.is_alive() and time.monotonic() < deadline:
                time.sleep(0.002)
        else:
            process.join(delay / 2**attempt)
        process.kill()
        process.join(10)
        if process.exitcode == -signal.SIGKILL and not finished(out / "journal.jsonl", stage):
            shutil.rmtree(kept, ignore_errors=True)
            return
    pytest.fail(f"{ATTEMPTS} jobs had ended before they were killed in {stage}")


@pytest.mark.engine
@pytest.mark.parametrize(
    ("runtime", "checkpoint"), [pytest.param("openvino", None, marks=pytest.mark.long), ("onnxruntime", "espcn_x2.pth")]
)
def test_killed_five_times_and_resumed(runtime: str, checkpoint: str | None, data: Path, tmp_path: Path) -> None:
    net = data / "checkpoints" / checkpoint if checkpoint else tiny_checkpoint(tmp_path)
    out, photos = tmp_path / "run", some_photos(data, tmp_path / "photos")
    words = ["compress", str(net), "--device", DEVICE, "--data", str(photos), "--out", str(out), *QUICK]
    words += ["--iterations", str(ITERATIONS), "--runtime", runtime]
    reference = job(words, resume=False)
    reference.join(300)
    assert finished(out / "journal.jsonl", "report")
    expected = {name: (out / name).read_bytes() for name in ARTEFACTS}
    journal = Journal(out)
    journal.read()
    seconds = {entry.stage: entry.seconds for entry in journal.entries()}
    stages = list(seconds)
    shutil.rmtree(out)

    moments = random.Random(20_26)
    blocks_were_left = False
    for turn, stage in enumerate(KILLED_IN):
        before = stages[: stages.index(stage)]
        kill_in(out, words, stage, before, moments.uniform(0.3, 0.8) * seconds[stage], resume=turn > 0)
        assert not finished(out / "journal.jsonl", "report")
        blocks_were_left |= any((out / "work" / "blocks").glob("*.safetensors"))
    assert blocks_were_left

    last = job(words, resume=True)
    last.join(300)
    assert finished(out / "journal.jsonl", "report")
    assert not list(out.rglob(".*.part"))
    different = [name for name in ARTEFACTS if (out / name).read_bytes() != expected[name]]
    assert different == []
