"""What the tests of whole jobs share: a tiny network, small folders, and a job run through the real command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bitwright.cli.app import run
from bitwright.runs.request import CompressRequest
from tests.marks import needs_tensorrt_rtx
from workloads.super_resolution.models.plain import PlainSR, PlainSRConfig

DEVICE = "x86-avx512-vnni-bf16"
QUICK = (
    *("--calibration-count", "8", "--calibration-size", "32", "--iterations", "20"),
    *("--measure-seconds", "0.1", "--input-size", "64x64"),
)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """The last line on stderr, where an error is told."""
        return self.err.rstrip("\n").rpartition("\n")[2]

    def refusal(self, code: int = 2) -> str:
        """The line of an error that was foreseen: the last on stderr, after nothing but progress."""
        assert self.code == code, self.err
        told = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert told == [self.last_line], self.err
        assert "Traceback" not in self.err
        assert "unforeseen" not in self.err
        return self.last_line


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """Run one command of the real command line in this process."""
    capsys.readouterr()
    code = run(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return Ended(code, out, err)


def compress(capsys: pytest.CaptureFixture[str], checkpoint: Path, photos: Path, out: Path, *more: str | Path) -> Ended:
    """`bitwright compress` with the smallest settings."""
    words = ("compress", checkpoint, "--device", DEVICE, "--data", photos, "--out", out)
    return command(capsys, *words, *_without(more), *more)


def _without(more: tuple[str | Path, ...]) -> tuple[str, ...]:
    """The quick settings less those that are given anyway, and that of rounding where a precision is given."""
    taken = {*more, "--iterations"} if "--precision" in more else {*more}
    pairs = zip(QUICK[::2], QUICK[1::2], strict=True)
    return tuple(word for pair in pairs if pair[0] not in taken for word in pair)


def for_a_gpu_elsewhere(test: Callable[..., None]) -> Callable[..., None]:
    """A test that builds an engine and is told that it cannot run here, on a machine with a GPU as well."""
    return pytest.mark.engine(needs_tensorrt_rtx(pytest.mark.usefixtures("no_gpu")(test)))


def tiny_network(scale: int = 2, width: int = 8, depth: int = 3) -> PlainSR:
    """An untrained network that still enlarges: its residual is small beside the repeated input."""
    torch.manual_seed(0)
    network = PlainSR(PlainSRConfig(scale=scale, width=width, depth=depth)).eval()
    with torch.no_grad():
        for conv in network.convs:
            conv.weight.mul_(0.7)
    return network


def tiny_checkpoint(folder: Path, name: str = "plain.safetensors", **sizes: int) -> Path:
    """The tiny network as a file."""
    save_file(dict(tiny_network(**sizes).state_dict()), folder / name)
    return folder / name


def some_photos(data: Path, folder: Path, count: int = 5) -> Path:
    """A folder with the first pictures of Set5."""
    folder.mkdir()
    for path in sorted((data / "sr" / "test" / "Set5").glob("*.png"))[:count]:
        shutil.copy(path, folder)
    return folder


def some_labelled_images(data: Path, folder: Path, test: int = 500, train: int | None = None) -> Path:
    """CIFAR-10 with its first `test` images to evaluate on and its first `train` of the others, or all of them."""
    source = data / "classification" / "cifar10"
    folder.mkdir()
    for path in source.glob("train*") if train is None else ():
        (folder / path.name).symlink_to(path)
    for split, name, count in (("test", "test.png", test), ("train", "train_0.png", train)):
        if count is not None:
            with Image.open(source / name) as sheet:
                sheet.crop((0, 0, sheet.width, 32 * 32 * count // sheet.width)).save(folder / f"{split}.png")
            np.save(folder / f"{split}_labels.npy", np.load(source / f"{split}_labels.npy")[:count])
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file."""
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


def tiny_request(data: Path, folder: Path, width: int = 8, **more: object) -> CompressRequest:
    """A job on a small network of `width` channels and some photos that leaves out what takes long."""
    return CompressRequest.model_validate(
        {
            "checkpoint": tiny_checkpoint(folder, width=width), "device": DEVICE, "out": folder / "run",
            "data": some_photos(data, folder / "photos"), "calibration_count": 8, "calibration_size": 32,
            "reconstruct": False, **more,
        }
    )  # fmt: skip
