"""Folders of pictures: names, broken files, and calls that are stopped, killed and repeated."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitwright
from bitwright.foundation import progress
from bitwright.foundation.errors import UsageError
from bitwright.runs.upscale_inputs import JOURNAL, LOCK
from bitwright.runs.upscale_request import parse_bytes
from deploy.engine import EngineSpec
from deploy.engines import SPEC_FILE
from tests.bitwright.job_helpers import command, tiny_network
from tests.bitwright.upscale_helpers import Pooled, float_engine, photo, pixels, save, upscaled_apart
from tests.workloads.png_reader import encode
from workloads.super_resolution.format import Color, SRFormat

pytestmark = pytest.mark.engine
Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--memory", "16G", "--threads", "1")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = tiny_network()
    return float_engine(network, network.io, tmp_path_factory.mktemp("engine") / "float")


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Six frames of a video, each brighter than the one before."""
    return save(tmp_path / "frames", **{f"frame_{i}": photo(60, 80) // 8 * (i + 2) for i in range(6)})


class StopsAt:
    """Listens to progress, and presses Ctrl-C at a tile."""

    def __init__(self, tile: int) -> None:
        self.left = tile

    def start(self, description: str, total: int | None) -> int:
        return 0

    def advance(self, handle: int, steps: int = 1) -> None:
        self.left -= steps
        if self.left == 0:
            raise KeyboardInterrupt

    def stop(self, handle: int) -> None:
        return None

    def note(self, message: str) -> None:
        return None


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_stopped_job_goes_on_where_it_stopped(engine: Path, frames: Path, tmp_path: Path) -> None:
    out, straight = tmp_path / "out", tmp_path / "straight"
    upscale = partial(bitwright.upscale, engine, frames, tile=40, threads=1, memory=16 << 30)
    upscale(out=straight)
    tiles = 6
    with pytest.raises(KeyboardInterrupt), progress.reporting_to(StopsAt(2 * tiles + 3)):
        upscale(out=out)
    assert names(out) == {"frame_0.png", "frame_1.png", JOURNAL}
    before = (out / "frame_0.png").stat().st_mtime_ns
    done = upscale(out=out)
    assert done.already_done == ("frame_0.png", "frame_1.png")
    assert [one.name for one in done.pictures] == [f"frame_{i}.png" for i in range(2, 6)]
    assert (out / "frame_0.png").stat().st_mtime_ns == before
    for i in range(6):
        assert (out / f"frame_{i}.png").read_bytes() == (straight / f"frame_{i}.png").read_bytes()
    again = upscale(out=out)
    assert (again.pictures, len(again.already_done), again.memory) == ((), 6, None)


def test_a_call_with_another_memory_limit_mixes_no_tiles_that_show(tmp_path: Path, capsys: Capture) -> None:
    """In processes of their own, as the tile follows from what a process may take."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 3, 3, padding=1))
    network = nn.Sequential(wide, Pooled()).eval()
    built = float_engine(network, SRFormat(2, Color.RGB, 1.0), tmp_path / "engine")
    frames = save(tmp_path / "frames", a=photo(260, 200), b=photo(200, 260))

    def upscaled(out: Path, *more: str) -> Any:
        return json.loads(upscaled_apart(built, frames, out, *more).stdout)

    large = upscaled(tmp_path / "wide", "--memory", "16G")
    limit = str(large["memory"]["estimate"] - (40 << 20))
    tight = upscaled(tmp_path / "tight", "--memory", limit)
    assert tight["tiling"]["tile"] < 200 < large["tiling"]["tile"]
    expected = (tmp_path / "tight" / "b.png").read_bytes()
    assert expected != (tmp_path / "wide" / "b.png").read_bytes()
    (tmp_path / "tight" / "b.png").unlink()
    # Less than any process takes.
    words = ("upscale", built, frames, "--out", tmp_path / "tight", "--threads", "1", "--memory", "20M")
    begun = f"{tmp_path / 'tight'} was begun with tiles of {tight['tiling']['tile']}"
    assert command(capsys, *words).refusal().endswith(f"give more, or another --out: {begun}")
    again = upscaled(tmp_path / "tight", "--memory", "16G")
    assert (again["already_done"], again["tiling"]) == (["a.png"], tight["tiling"])
    assert (tmp_path / "tight" / "b.png").read_bytes() == expected


def test_ctrl_c_says_how_to_go_on(
    engine: Path, frames: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    words = ["upscale", str(engine), str(frames), "--out", str(tmp_path / "out"), *QUICK]
    monkeypatch.setattr(sys, "argv", ["bitwright", *words])
    monkeypatch.setattr("bitwright.runs.upscale_picture.run_windows", interrupted)
    ended = command(capsys, *words)
    assert ended.code == 130
    assert ended.last_line.startswith("stopped; continue with: bitwright upscale ")
    assert not list((tmp_path / "out").iterdir())


def test_a_killed_job_leaves_nothing_that_stays(engine: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "in", large=np.tile(photo(400, 400), (3, 3, 1)))
    out = tmp_path / "out"
    words = [sys.executable, "-m", "bitwright", "upscale", engine, source, "--out", out, "--tile", "16", *QUICK]
    process = subprocess.Popen(
        [*map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while not (out.is_dir() and any(name.endswith(".part") for name in names(out))):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert "large.png" not in names(out)
    bitwright.upscale(engine, source, out=out, threads=1, memory=16 << 30)
    assert names(out) == {"large.png", JOURNAL}


def test_a_changed_picture_and_a_damaged_result_are_not_taken_for_done(
    engine: Path, frames: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ("upscale", engine, frames, "--out", tmp_path / "out", *QUICK)
    assert command(capsys, *words).code == 0
    save(frames, frame_1=photo(60, 80))
    assert "frame_1.png is there and is not what this engine makes of" in command(capsys, *words).refusal()
    ended = command(capsys, *words, "--overwrite", "--json")
    assert [one["name"] for one in json.loads(ended.out)["pictures"]] == ["frame_1.png"]
    (tmp_path / "out" / "frame_4.png").write_bytes(b"cut off")
    ended = command(capsys, *words, "--overwrite", "--json")
    assert [one["name"] for one in json.loads(ended.out)["pictures"]] == ["frame_4.png"]
    assert command(capsys, *words, "--json").code == 0


def test_what_others_have_put_there_stays(engine: Path, frames: Path, tmp_path: Path, capsys: Capture) -> None:
    save(tmp_path / "out", frame_3=photo(5, 5))
    words = ("upscale", engine, frames, "--out", tmp_path / "out", *QUICK)
    assert "--overwrite to replace it" in command(capsys, *words).refusal()
    assert pixels(tmp_path / "out" / "frame_3.png").shape == (5, 5, 3)
    assert names(tmp_path / "out") == {"frame_3.png"}
    one = ("upscale", engine, frames / "frame_3.png", "--out", tmp_path / "out" / "frame_3.png", *QUICK)
    assert "is there already" in command(capsys, *one).refusal()
    assert command(capsys, *one, "--overwrite").code == 0
    assert pixels(tmp_path / "out" / "frame_3.png").shape == (120, 160, 3)
    assert names(tmp_path / "out") == {"frame_3.png"}


def test_broken_files_are_named_and_the_others_done(engine: Path, tmp_path: Path, capsys: Capture) -> None:
    source = save(tmp_path / "in", good=photo(30, 40), cut=photo(50, 50))
    cut = (source / "cut.png").read_bytes()
    (source / "cut.png").write_bytes(cut[: len(cut) // 2])
    (source / "empty.jpg").write_bytes(b"")
    (source / "text.png").write_text("hello")
    huge = encode(photo(2, 2))
    (source / "huge.png").write_bytes(huge[:16] + struct.pack(">II", 60000, 60000) + huge[24:])
    (source / "notes.txt").write_text("no picture")
    Path(os.fsdecode(bytes(source) + b"/bad\xff.png")).write_bytes(encode(photo(2, 2)))
    ended = command(capsys, "upscale", engine, source, "--out", tmp_path / "out", *QUICK)
    told = ended.refusal()
    assert "5 of 6 pictures cannot be used" in told
    assert all(name in told for name in ("cut.png", "empty.jpg", "text.png", "huge.png"))
    assert "1 picture enlarged x2" in ended.out
    assert names(tmp_path / "out") == {"good.png", JOURNAL}
    found = json.loads(command(capsys, "upscale", engine, source, "--out", tmp_path / "out", *QUICK, "--json").out)
    assert (len(found["skipped"]), found["already_done"]) == (5, ["good.png"])
    for name in ("good.png",):
        (source / name).unlink()
    assert "no picture in" in command(capsys, "upscale", engine, source, "--out", tmp_path / "none", *QUICK).refusal()
    alone = command(capsys, "upscale", engine, source / "cut.png", "--out", tmp_path / "a.png", *QUICK).refusal()
    assert "cut.png" in alone
    assert not (tmp_path / "a.png").exists()
    assert not (tmp_path / "none").exists() or names(tmp_path / "none") == set()


def test_names_are_kept_apart(engine: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "in", a=photo(20, 20), sub__a=photo(24, 24), b=photo(28, 28))
    save(tmp_path / "other", a=photo(32, 32))
    (source / "a.bmp").write_bytes((tmp_path / "other" / "a.png").read_bytes())
    bitwright.upscale(engine, source, out=source / "large", threads=1, memory=16 << 30)
    sizes = {
        path.relative_to(source / "large").as_posix(): pixels(path).shape[0]
        for path in (source / "large").rglob("*.png")
    }
    assert sizes == {"a.png.png": 40, "a.bmp.png": 64, "sub/a.png": 48, "b.png": 56}
    # The folder of results lies in the folder that is read, and is not read.
    again = bitwright.upscale(engine, source, out=source / "large", threads=1, memory=16 << 30)
    assert (len(again.already_done), again.pictures) == (4, ())


def test_one_job_at_a_time(engine: Path, frames: Path, tmp_path: Path, capsys: Capture) -> None:
    from bitwright.runs.lock import FolderLock

    (tmp_path / "out").mkdir()
    lock = FolderLock(tmp_path / "out", LOCK)
    lock.acquire()
    assert (
        "is in use by process"
        in command(capsys, "upscale", engine, frames, "--out", tmp_path / "out", *QUICK).refusal()
    )
    lock.release()


def test_bad_requests_are_one_line(engine: Path, frames: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other"
    spec = EngineSpec.model_validate_json((engine / SPEC_FILE).read_bytes())
    other.mkdir()
    (other / SPEC_FILE).write_text(spec.model_copy(update={"super_resolution": None}).model_dump_json())
    save(tmp_path / "in", small=photo(20, 20))
    cases: list[tuple[tuple[object, ...], str]] = [
        ((tmp_path / "none", frames, "--out", "x"), "is not a folder"),
        ((frames, frames, "--out", "x"), "holds no engine"),
        ((other, frames, "--out", "x"), "does not say that it enlarges pictures"),
        ((engine, tmp_path / "none", "--out", "x"), "none does not exist"),
        ((engine, frames, "--out", frames), "is the folder that is read"),
        ((engine, frames, "--out", "x.png"), "need a folder"),
        ((engine, frames / "frame_0.png", "--out", "x.jpg"), "results are PNG files; give x.png"),
        ((engine, frames / "frame_0.png", "--out", frames), "would replace"),
        ((engine, frames, "--out", "x", "--memory", "lots"), "--memory: 'lots' is not valid"),
        ((engine, frames, "--out", "x", "--tile", "6"), "--tile 6 is too small for an overlap of 4; give at least 9"),
        ((engine, frames, "--out", "/proc/x"), "cannot write /proc/x"),
    ]
    for words, said in cases:
        ended = command(capsys, "upscale", *map(str, words))
        assert said in ended.refusal()
        assert ended.out == ""
    assert not Path("x").exists()


def test_too_small_for_the_network_is_skipped(tmp_path: Path, capsys: Capture) -> None:
    from dataclasses import replace

    network = tiny_network()
    built = float_engine(network, replace(network.io, min_input_side=25), tmp_path / "engine")
    save(tmp_path / "in", small=photo(24, 90), good=photo(25, 90))
    ended = command(capsys, "upscale", built, tmp_path / "in", "--out", tmp_path / "out", *QUICK)
    assert "small.png: it has 90x24 pixels and the network needs 25 a side" in ended.refusal()
    assert "1 picture enlarged" in ended.out


def test_sizes() -> None:
    assert parse_bytes("2G") == parse_bytes("2 GiB") == 2 << 30
    assert parse_bytes("1.5g") == 3 << 29
    assert parse_bytes("800M") == 800 << 20
    assert parse_bytes("123456") == 123456
    for text in ("", "G", "-1G", "0", "2T", "1e9"):
        with pytest.raises(UsageError, match="--memory"):
            parse_bytes(text)
