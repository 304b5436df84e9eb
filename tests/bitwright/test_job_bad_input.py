"""Bad input to the whole job: one clear line, the right exit code, and nothing left behind."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bitwright.runs.folder import RunFolder
from tests.bitwright.job_helpers import (
    DEVICE,
    command,
    compress,
    read_json,
    some_photos,
    tiny_checkpoint,
    tiny_network,
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path)


@pytest.fixture
def photos(data: Path, tmp_path: Path) -> Path:
    return some_photos(data, tmp_path / "photos")


def refused(capsys: Capture, checkpoint: Path, photos: Path, out: Path, *more: str | Path) -> str:
    """The line of a job that is refused with exit code 2 and leaves no folder."""
    line = compress(capsys, checkpoint, photos, out, *more).refusal()
    assert not out.exists()
    return line


class RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("touch /tmp/bitwright-was-here",))


def test_checkpoints_that_cannot_be_used(data: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    whole = (data / "checkpoints" / "imdn_rtc_x2.pth").read_bytes()
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole[: len(whole) // 2])
    half = tmp_path / "half.safetensors"
    half.write_bytes(tiny_checkpoint(tmp_path).read_bytes()[:-100])
    empty = tmp_path / "empty.pth"
    empty.touch()
    out = tmp_path / "made" / "out"
    for path in (cut, half, empty):
        assert path.name in refused(capsys, path, photos, out)
    assert not out.parent.exists()


@pytest.mark.parametrize("form", ["plain", "torch"])
def test_a_pickle_with_code_is_named_and_not_run(form: str, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "evil.pth"
    if form == "torch":
        torch.save({"convs.0.weight": torch.zeros(1), "extra": RunsCode()}, path)
    else:
        path.write_bytes(pickle.dumps({"weights": RunsCode()}))
    line = refused(capsys, path, photos, tmp_path / "out")
    assert "system" in line
    assert not Path("/tmp/bitwright-was-here").exists()


def test_weights_of_another_architecture(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    state = dict(tiny_network().state_dict())
    state["tail.0.weight"] = state.pop("convs.1.weight")
    save_file(state, tmp_path / "other.safetensors")
    line = refused(capsys, tmp_path / "other.safetensors", photos, tmp_path / "out")
    assert "convs.1.weight" in line
    assert "tail.0.weight" in line
    assert "nearest is plain" in line
    save_file({"a": torch.zeros(3)}, tmp_path / "nothing.safetensors")
    assert "--model" in refused(capsys, tmp_path / "nothing.safetensors", photos, tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_reported_by_layer(
    value: float, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    state = dict(tiny_network().state_dict())
    state["convs.1.bias"][3] = value
    save_file(state, tmp_path / "nan.safetensors")
    assert "convs.1.bias" in refused(capsys, tmp_path / "nan.safetensors", photos, tmp_path / "out")


def test_folders_without_a_usable_picture(photos: Path, net: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(capsys, net, tmp_path / "empty", tmp_path / "out")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.jpg").write_bytes(b"\xff\xd8 no picture")
    line = refused(capsys, net, tmp_path / "broken", tmp_path / "out")
    assert "one.jpg" in line
    line = refused(capsys, net, photos, tmp_path / "out", "--eval", tmp_path / "broken")
    assert "one.jpg" in line
    assert "empty" in refused(capsys, net, photos, tmp_path / "out", "--eval", tmp_path / "empty")


def test_pictures_of_all_kinds(photos: Path, net: Path, tmp_path: Path, capsys: Capture) -> None:
    whole = (photos / "baby.png").read_bytes()
    (photos / "damaged.png").write_bytes(whole[: len(whole) // 2])
    good = Image.open(photos / "bird.png").convert("RGB")
    good.save(photos / "cut.jpg")
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:3000])
    good.convert("L").save(photos / "grey.png")
    good.convert("RGBA").save(photos / "alpha.png")
    deep = np.asarray(good.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(photos / "deep.png")
    good.crop((0, 0, 1, 1)).save(photos / "dot.png")
    out = tmp_path / "out"
    ended = compress(capsys, net, photos, out, "--eval", photos, "--iterations", "2")
    assert ended.code == 0, ended.err
    for name in ("damaged.png", "cut.jpg", "dot.png"):
        assert name in ended.err
        assert name in (out / "log").read_text()
    per_image = read_json(out / "report.json")["quality"]["engine"]["per_image"]
    usable = {"baby.png", "bird.png", "butterfly.png", "head.png", "woman.png", "grey.png", "alpha.png", "deep.png"}
    assert set(per_image) == usable
    assert per_image["alpha.png"] == pytest.approx(per_image["bird.png"], abs=1e-6)
    assert per_image["grey.png"] == pytest.approx(per_image["deep.png"], abs=1e-3)


def test_unknown_devices_and_bad_profiles(photos: Path, net: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"

    def line_for(device: str | Path) -> str:
        words = ("compress", net, "--device", device, "--data", photos, "--out", out)
        line = command(capsys, *words).refusal()
        assert not out.exists()
        return line

    assert f"did you mean {DEVICE}" in line_for("x86-avx512-vnni-bf")
    source = Path(__file__).resolve().parents[2] / "hw_profiles" / "catalogue" / f"{DEVICE}.yaml"
    assert source.is_file(), list(source.parent.parent.iterdir())
    text = source.read_text()
    right = "memory: {dram_gb_s_per_core: 25}"
    assert right in text
    for wrong in ("memory: {dram_gb_s_per_core: fast}", "memory: {dram_mb_s_per_core: 25}"):
        changed = tmp_path / "mine.yaml"
        changed.write_text(text.replace(right, wrong, 1))
        said = wrong.split("{")[1].split(":")[0]
        line = line_for(changed)
        assert said in line
        assert "mine.yaml" in line


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    yield from mounted(tmp_path / "disk", "size=1m")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "frozen", "ro,size=1m")


def mounted(folder: Path, options: str) -> Iterator[Path]:
    if shutil.which("mount") is None or os.name != "posix":
        pytest.skip("no mount program here")
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mounting a small file system needs privileges that this process does not have")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_read_only_output_folder(
    read_only_disk: Path, net: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    line = compress(capsys, net, photos, read_only_disk / "out").refusal()
    assert "read-only" in line
    assert str(read_only_disk / "out") in line
    assert list(read_only_disk.iterdir()) == []


def test_a_disk_too_small_to_begin(small_disk: Path, net: Path, photos: Path, capsys: Capture) -> None:
    line = refused(capsys, net, photos, small_disk / "out")
    assert "MB" in line
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up(
    small_disk: Path, photos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The defaults of `open` are what a job asks for; here it believes that there is room.
    monkeypatch.setattr(RunFolder.open.__func__, "__kwdefaults__", {**RunFolder.open.__kwdefaults__, "needed_bytes": 0})
    (small_disk / "ballast").write_bytes(b"0" * 700_000)
    big = tiny_checkpoint(tmp_path, "big.safetensors", width=96)
    out = small_disk / "out"
    ended = compress(capsys, big, photos, out)
    assert "the disk is full" in ended.refusal()
    assert not out.exists() or not list(out.rglob(".*.part"))
    (small_disk / "ballast").unlink()


LIMITED = """
import resource, signal, sys
from bitwright.cli.app import run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(run(sys.argv[2:]))
"""


def test_a_write_that_the_system_refuses_in_the_middle(photos: Path, tmp_path: Path) -> None:
    # A limit on the size of a file stands for the disk: the small files of the first stages pass, the weights do not.
    big, out = tiny_checkpoint(tmp_path, "big.safetensors", width=64), tmp_path / "out"
    root = Path(__file__).resolve().parents[2]
    words = ["compress", big, "--device", DEVICE, "--data", photos, "--out", out, "--no-reconstruct"]
    words += ["--calibration-count", "8", "--calibration-size", "32"]
    job = subprocess.run(
        [sys.executable, "-c", LIMITED, "150000", *words],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}, cwd=tmp_path, check=False,
    )  # fmt: skip
    told = [line for line in job.stderr.splitlines() if line.startswith("error: ")]
    assert job.returncode == 2, job.stderr
    assert "Traceback" not in job.stderr
    assert told == [job.stderr.splitlines()[-1]]
    assert "File too large" in told[0]
    assert str(out) in told[0]
    assert not out.exists() or not list(out.rglob(".*.part"))
    assert not out.exists() or not (out / "lock").exists()


def test_interrupting_a_job_names_the_command_that_goes_on(net: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["compress", net, "--device", DEVICE, "--data", photos, "--out", out, "--iterations", "100000"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    job = subprocess.Popen(
        [sys.executable, "-m", "bitwright", *map(str, words)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    journal = out / "journal.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.is_file() and '"nearest"' in journal.read_text()):
        time.sleep(0.05)
    time.sleep(0.5)
    job.send_signal(signal.SIGINT)
    printed, told = job.communicate(timeout=30)
    assert job.returncode == 130, told
    assert printed == ""
    assert "Traceback" not in told
    last = told.splitlines()[-1]
    assert last.startswith("stopped; continue with: bitwright compress ")
    assert last.endswith("--resume")
    assert str(out) in last
    assert not list(out.rglob(".*.part"))
    assert not (out / "lock").exists()
