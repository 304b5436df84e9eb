from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bitwright.foundation.errors import DataError, UsageError, VerificationError
from workloads.classification.cifar_sheets import read_split, splits
from workloads.classification.class_folders import centre_square, list_labelled
from workloads.classification.format import ClassificationFormat
from workloads.classification.task import Classification

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = ClassificationFormat(10, MEAN, STD, 32)
THREE = ClassificationFormat(3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 8)


@pytest.mark.data
def test_cifar_sheets_in_label_order(data: Path) -> None:
    folder = data / "classification" / "cifar10"
    assert splits(folder) == ["test", "train"]
    test, train = read_split(folder, "test", 32, 10), read_split(folder, "train", 32, 10)
    assert test.images.shape == (4000, 32, 32, 3)
    assert np.bincount(test.labels).tolist() == [400] * 10
    assert train.images.shape == (10000, 32, 32, 3)
    sheet = np.asarray(Image.open(folder / "train_1.png"))
    np.testing.assert_array_equal(train.images[5000 + 53], sheet[32:64, 96:128])


@pytest.mark.data
def test_evaluation_and_calibration_take_their_splits(data: Path) -> None:
    task, folder = Classification(CIFAR), data / "classification" / "cifar10"
    samples = task.samples(folder)
    assert len(samples) == 40
    assert samples[3].input.shape == (100, 3, 32, 32)
    assert samples[3].name == "images 300..399"
    test, train = read_split(folder, "test", 32, 10), read_split(folder, "train", 32, 10)
    expected = (test.images[301, 5, 7] / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(samples[3].input[1, :, 5, 7], expected, atol=1e-6)
    crops = task.calibration(folder, 64, 32, seed=2)
    assert torch.equal(crops, task.calibration(folder, 64, 32, seed=2))
    pixels = crops * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    drawn = {(image * 255).round().byte().permute(1, 2, 0).numpy().tobytes() for image in pixels}
    assert len(drawn) == 64
    assert drawn <= {image.tobytes() for image in train.images}


@pytest.mark.data
def test_accuracy_counts_every_image_once(data: Path) -> None:
    task = Classification(CIFAR)
    samples = task.samples(data / "classification" / "cifar10", limit=250)
    assert [len(sample.target) for sample in samples] == [100, 100, 50]
    # Classes are interleaved 0..9, so always guessing class 3 is right for a tenth.
    quality = task.evaluate(lambda x: torch.eye(10)[3].expand(len(x), 10), samples)
    assert quality.mean == 10.0
    assert (quality.metric, quality.unit) == ("top-1", "%")
    assert quality.extra["cross-entropy"] == pytest.approx(-0.1 + np.log(9 + np.e), abs=1e-6)
    half = iter([samples[0].target, samples[1].target, (samples[2].target + 1) % 10])
    quality = task.evaluate(lambda x: torch.eye(10)[next(half)], samples)
    assert quality.mean == 80.0
    assert list(quality.per_sample.values()) == [100.0, 100.0, 0.0]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name, level, count in (("c10", 30, 2), ("c2", 20, 3), ("c1", 10, 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = np.full((16 + number, 12, 3), level * 5 + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (tmp_path / "c2" / "bad.jpg").write_bytes(b"\xff\xd8 not a picture")
    return tmp_path


def test_class_folders(classes: Path) -> None:
    assert [file.label for file in list_labelled(classes, 3)] == [0, 1, 2, 0, 1, 2, 1, 1]
    sample = Classification(THREE).samples(classes)[0]
    assert sample.input.shape == (7, 3, 8, 8)
    assert sample.target.tolist() == [0, 1, 2, 0, 1, 2, 1]
    levels = ((sample.input[:, 0, 4, 4] * 0.25 + 0.5) * 255).round().int().tolist()
    assert levels == [50, 100, 150, 51, 101, 151, 102]
    assert Classification(THREE).samples(classes, limit=4)[0].target.tolist() == [0, 1, 2, 0]
    assert Classification(THREE).calibration(classes, 11, 8).shape == (11, 3, 8, 8)


def test_centre_square() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 200
    assert np.unique(centre_square(pixels, 40)).tolist() == [200]
    assert centre_square(pixels[:1, :1], 8).shape == (8, 8, 3)
    assert centre_square(np.zeros((300, 200, 3), np.uint8), 224).shape == (224, 224, 3)


def test_example_input() -> None:
    x = Classification(CIFAR).example_input(32, 48)
    assert x.shape == (1, 3, 32, 48)
    assert float(x.max()) <= (1 - 0.406) / 0.225 + 1e-5
    assert 0.3 < float(x.std()) < 2.5


def test_loss_is_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    expected = (np.log(3) + np.log(np.exp(2) + 2) - 2) / 2
    assert float(Classification(THREE).loss(logits, torch.tensor([1, 0]))) == pytest.approx(expected, rel=1e-6)


def _sheet(folder: Path, labels: object, side: int = 16) -> Path:
    Image.fromarray(np.zeros((side, 24, 3), np.uint8)).save(folder / "test.png")
    np.save(folder / "test_labels.npy", np.asarray(labels), allow_pickle=True)
    return folder


def test_bad_sheets_are_named(tmp_path: Path) -> None:
    task = Classification(THREE)
    assert task.samples(_sheet(tmp_path, [0, 1, 2, 0, 1, 2]))[0].target.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(DataError, match="5 labels for 6 tiles of 8x8"):
        task.samples(_sheet(tmp_path, [0, 1, 2, 0, 1]))
    with pytest.raises(DataError, match=r"labels 0\.\.3, the network has classes 0\.\.2"):
        task.samples(_sheet(tmp_path, [0, 1, 2, 0, 1, 3]))
    with pytest.raises(DataError, match="one-dimensional array of integers"):
        task.samples(_sheet(tmp_path, [0.5] * 6))
    with pytest.raises(DataError, match="holds no label"):
        task.samples(_sheet(tmp_path, np.zeros(0, np.uint8)))
    with pytest.raises(DataError, match="no whole number of 8x8 tiles"):
        task.samples(_sheet(tmp_path, [0] * 6, side=15))
    with pytest.raises(DataError, match="cannot read the labels"):
        task.samples(_sheet(tmp_path, np.array([{"a": 1}], dtype=object)))
    (tmp_path / "test.png").unlink()
    with pytest.raises(DataError, match="no sheet"):
        task.samples(tmp_path)


def test_refusals(classes: Path) -> None:
    task = Classification(THREE)
    with pytest.raises(DataError, match="3 subfolders with pictures, the network has 10 classes"):
        Classification(CIFAR).samples(classes)
    with pytest.raises(UsageError, match="8x8 pixels, not 4 of 16x16"):
        task.calibration(classes, 4, 16)
    with pytest.raises(UsageError, match=r"gave \[7, 2\] where \[7, 3\]"):
        task.evaluate(lambda x: torch.zeros(len(x), 2), task.samples(classes))
    with pytest.raises(VerificationError, match="NaN"):
        task.evaluate(_not_a_number, task.samples(classes))


def _not_a_number(x: Tensor) -> Tensor:
    return torch.full((len(x), 3), float("nan"))
