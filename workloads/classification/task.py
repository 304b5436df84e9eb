"""Classification: labelled images, cross-entropy and top-1 accuracy around an image classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitwright.foundation import progress
from bitwright.foundation.errors import UsageError, VerificationError
from workloads.classification.cifar_sheets import LabelledImages, read_split, splits
from workloads.classification.class_folders import LabelledFile, list_labelled, read_square
from workloads.classification.format import ClassificationFormat
from workloads.classification.preparation import normalised
from workloads.classification.training_data import ShuffledImages
from workloads.embedded.pictures import read_picture
from workloads.parallel import ordered_map
from workloads.super_resolution.images import Skipped, note_skipped, nothing_usable
from workloads.workload import Predict, Quality, Sample, Workload

BATCH = 100
"""Images in one Sample: the figures of a set of thousands are then taken in seconds."""

HELD_OUT = 1000
"""Most training images that are kept out of calibration to choose between plans."""

_EVALUATION_SPLITS = ("test", "val", "validation", "eval")
_CALIBRATION_SPLITS = ("train", "calibration")


class Batches(Sequence[Sample]):
    """Labelled images as Samples of up to BATCH images, normalised when they are asked for."""

    def __init__(self, data: LabelledImages, io: ClassificationFormat) -> None:
        self._data = data
        self._io = io

    def __len__(self) -> int:
        return -(-len(self._data.labels) // BATCH)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        first = range(0, len(self._data.labels), BATCH)[index]
        images, labels = self._data.images[first : first + BATCH], self._data.labels[first : first + BATCH]
        name = f"images {first}..{first + len(labels) - 1}"
        return Sample(name, normalised(images, self._io), torch.from_numpy(labels))


class Classification(Workload):
    """Image classification, scored by top-1 accuracy in percent.

    A folder holds tile sheets (`cifar_sheets`) or one subfolder per class (`class_folders`). Of several splits in one
    folder, evaluation takes the test split and calibration the training split. A Sample is a batch: input
    [n, 3, side, side], target [n] class numbers, n at most BATCH.
    """

    name = "classification"
    metric = "top-1"
    unit = "%"
    takes_one_size = True

    def __init__(self, io: ClassificationFormat) -> None:
        self.io = io
        self.min_input_side = io.input_size

    def example_input(self, height: int, width: int) -> Tensor:
        """A photograph resized to [1, 3, height, width] and normalised."""
        from PIL import Image

        picture = Image.fromarray(read_picture("astronaut.png")).resize((width, height), Image.Resampling.BICUBIC)
        return normalised(np.array(picture)[None], self.io)

    def samples(self, folder: Path, limit: int | None = None) -> Batches:
        """The folder's images in order, in batches; `limit` counts images. DataError if there is none.

        Images stay in memory as uint8: 3 KB each at 32x32, 150 KB at 224x224.
        """
        present = splits(folder)
        if not present:
            files = list_labelled(folder, self.io.classes)
            return Batches(self._read_files(files, folder, "evaluation", limit), self.io)
        data = self._read_sheets(folder, present, _EVALUATION_SPLITS, "evaluation")
        return Batches(LabelledImages(data.images[:limit], data.labels[:limit]), self.io)

    def calibration(self, folder: Path, count: int, size: int, seed: int = 0) -> Tensor:
        """`count` normalised images [count, 3, size, size] drawn without repetition while they last.

        UsageError if `size` is not the network's input size: a classifier's activations depend on the scale of things.
        """
        if count < 1 or size != self.io.input_size:
            raise UsageError(
                f"this classifier is calibrated on at least 1 image of {self.io.input_size}x{self.io.input_size} "
                f"pixels, not {count} of {size}x{size}"
            )
        if splits(folder):
            data = self._read_sheets(folder, splits(folder), _CALIBRATION_SPLITS, "calibration")
            images = data.images[_shuffled(_divided(len(data.labels))[1], seed)[:count]]
        else:
            files = list_labelled(folder, self.io.classes)
            usable = [files[number] for number in _shuffled(_divided(len(files))[1], seed)]
            images = self._read_files(usable, folder, "calibration", count).images
        return normalised(images[np.arange(count) % len(images)], self.io)

    def held_out(self, folder: Path) -> Batches:
        """A quarter of the training images, at most HELD_OUT, drawn once and for all."""
        if splits(folder):
            data = self._read_sheets(folder, splits(folder), _CALIBRATION_SPLITS, "choosing a plan")
            chosen = _divided(len(data.labels))[0]
            return Batches(LabelledImages(data.images[chosen], data.labels[chosen]), self.io)
        files = list_labelled(folder, self.io.classes)
        chosen_files = [files[number] for number in _divided(len(files))[0]]
        return Batches(self._read_files(chosen_files, folder, "choosing a plan", None), self.io)

    def training(self, folder: Path, size: int, seed: int = 0, *, stretched: float = 0.0) -> ShuffledImages:
        """The training images less those held out, mirrored and shifted at random; only `seed` matters besides.

        UsageError for stretched images, which are for networks that make pictures.
        """
        if stretched:
            raise UsageError("stretched crops are for networks whose output is a picture; leave stretched out")
        if splits(folder):
            data = self._read_sheets(folder, splits(folder), _CALIBRATION_SPLITS, "training")
            rest = _divided(len(data.labels))[1]
            return ShuffledImages(LabelledImages(data.images[rest], data.labels[rest]), self.io, seed)
        files = list_labelled(folder, self.io.classes)
        chosen = [files[number] for number in _divided(len(files))[1]]
        return ShuffledImages(self._read_files(chosen, folder, "training", None), self.io, seed)

    def evaluate(self, predict: Predict, samples: Sequence[Sample]) -> Quality:
        """Top-1 accuracy in percent over all images, of each batch, and the mean cross-entropy in `extra`."""
        if not len(samples):
            raise UsageError("there is no sample to evaluate on")
        correct, total, surprise = 0, 0, 0.0
        per_sample: dict[str, float] = {}
        with torch.no_grad():
            for sample in progress.track(samples, "evaluating top-1"):
                logits, target = predict(sample.input).float().cpu(), sample.target.reshape(-1)
                if logits.shape != (len(target), self.io.classes):
                    wanted = [len(target), self.io.classes]
                    raise UsageError(f"the network gave {list(logits.shape)} where {wanted} is needed")
                if not logits.isfinite().all():
                    raise VerificationError(f"the logits of {sample.name} hold NaN or infinite values")
                right = int((logits.argmax(dim=1) == target).sum())
                per_sample[sample.name] = 100 * right / len(target)
                surprise += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
                correct, total = correct + right, total + len(target)
        return Quality(self.metric, self.unit, 100 * correct / total, per_sample, {"cross-entropy": surprise / total})

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of logits [N, classes] and class numbers [N]."""
        return torch.nn.functional.cross_entropy(output, target)

    def _read_sheets(
        self, folder: Path, present: Sequence[str], preferred: Sequence[str], purpose: str
    ) -> LabelledImages:
        split = next((name for name in preferred if name in present), present[0])
        if split not in preferred:
            progress.note(f"{folder} has no {preferred[0]} split; its {split!r} split is used for {purpose}")
        return read_split(folder, split, self.io.input_size, self.io.classes)

    def _read_files(
        self, files: Sequence[LabelledFile], folder: Path, purpose: str, limit: int | None
    ) -> LabelledImages:
        side = self.io.input_size
        images: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        skipped: list[Skipped] = []
        read = ordered_map(partial(read_square, side=side), files)
        for file, pixels in zip(files, progress.track(read, f"reading {folder}", len(files)), strict=False):
            if isinstance(pixels, Skipped):
                skipped.append(pixels)
                continue
            images.append(pixels)
            labels.append(file.label)
            if len(labels) == limit:
                break
        note_skipped(skipped, folder, purpose)
        if not images:
            raise nothing_usable(skipped, folder, purpose)
        return LabelledImages(np.stack(images), np.array(labels, np.int64))


def _divided(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the images held out and of the others, both ascending; a single image serves as both."""
    order = np.random.default_rng(count).permutation(count)
    held = max(1, min(HELD_OUT, count // 4))
    return np.sort(order[:held]), np.sort(order[held:] if count > held else order)


def _shuffled(numbers: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, len(numbers)]).permutation(numbers)
