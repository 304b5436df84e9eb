"""Every published checkpoint, loaded strictly, gives the figure that is on record for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from workloads.architecture import Network
from workloads.loading import load_checkpoint
from workloads.super_resolution.format import SRFormat

SET5 = [
    ("rfdn_x4", "rfdn", 4, 433_448, 32.159),
    ("imdn_x2", "imdn", 2, 694_404, 37.996),
    ("imdn_x3", "imdn", 3, 703_059, 34.360),
    ("imdn_x4", "imdn", 4, 715_176, 32.210),
    ("imdn_rtc_x2", "imdn_rtc", 2, 20_190, 37.311),
    ("pan_x2", "pan", 2, 261_403, 38.001),
    ("pan_x3", "pan", 3, 261_403, 34.400),
    ("pan_x4", "pan", 4, 272_419, 32.131),
    ("carn_m_x234", "carn", 2, 257_051, 37.678),
    ("carn_m_x234", "carn", 3, 303_451, 34.058),
    ("carn_m_x234", "carn", 4, 294_171, 31.883),
    ("rlfn_x2", "rlfn", 2, 526_856, 38.066),
    ("rlfn_x4", "rlfn", 4, 543_740, 32.238),
    ("rlfn_ntire_x4", "rlfn", 4, 317_218, 32.097),
    ("fsrcnn_x2", "fsrcnn", 2, 12_809, 37.138),
    ("fsrcnn_x3", "fsrcnn", 3, 12_809, 32.599),
    ("fsrcnn_x4", "fsrcnn", 4, 12_809, 30.513),
    ("espcn_x2", "espcn", 2, 21_284, 34.79),
    ("espcn_x3", "espcn", 3, 22_729, 30.53),
    ("espcn_x4", "espcn", 4, 24_752, 28.38),
]


@pytest.mark.data
@pytest.mark.parametrize(("name", "architecture", "scale", "parameters", "psnr"), SET5)
def test_set5_figure(data: Path, name: str, architecture: str, scale: int, parameters: int, psnr: float) -> None:
    asked = scale if architecture == "carn" else None
    loaded = load_checkpoint(data / "checkpoints" / f"{name}.pth", scale=asked)
    module, workload = loaded.module, loaded.workload
    assert isinstance(module, Network)
    assert isinstance(module.io, SRFormat)
    assert (loaded.architecture, module.io.scale, loaded.parameters) == (architecture, scale, parameters)
    assert not module.training

    @torch.no_grad()
    def predict(x: Tensor) -> Tensor:
        output: Tensor = module(x)
        return output

    quality = workload.evaluate(predict, workload.samples(data / "sr" / "test" / "Set5"))
    assert len(quality.per_sample) == 5
    # The record of ESPCN has two decimals, the others three.
    assert quality.mean == pytest.approx(psnr, abs=0.006 if architecture == "espcn" else 0.002)


@torch.no_grad()
def _top1(data: Path, name: str, count: int) -> float:
    sheet = np.asarray(Image.open(data / "classification/cifar10/test.png"))
    tiles = sheet.reshape(sheet.shape[0] // 32, 32, 50, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)[:count]
    labels = torch.from_numpy(np.load(data / "classification/cifar10/test_labels.npy")[:count].astype(np.int64))
    loaded = load_checkpoint(data / "classification/checkpoints" / name)
    io = loaded.module.io
    assert loaded.architecture == "resnet"
    pictures = torch.from_numpy(tiles.copy()).permute(0, 3, 1, 2).float() / 255
    pictures = (pictures - torch.tensor(io.mean).view(3, 1, 1)) / torch.tensor(io.std).view(3, 1, 1)
    right = sum(
        int((loaded.module(batch).argmax(1) == truth).sum())
        for batch, truth in zip(pictures.split(250), labels.split(250), strict=True)
    )
    return 100 * right / len(labels)


@pytest.mark.data
def test_resnet20_on_all_4000_images(data: Path) -> None:
    assert _top1(data, "resnet20_cifar10.pth", 4000) == pytest.approx(92.30, abs=0.03)


@pytest.mark.data
def test_resnet56_on_a_part(data: Path) -> None:
    assert _top1(data, "resnet56_cifar10.pth", 500) == pytest.approx(93.2, abs=0.21)
