"""Labelled pictures stored as one subfolder per class, in natural order of the subfolders' names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import DataError
from workloads.super_resolution.images import (
    ImageFile,
    Skipped,
    UnreadableImageError,
    list_images,
    natural_key,
    read_image,
)

# ImageNet networks expect the middle of a picture whose shorter side is 8/7 of the input's.
_LARGE_INPUT, _MARGIN = 128, 8 / 7


@dataclass(frozen=True)
class LabelledFile:
    """A picture file and its class."""

    image: ImageFile
    label: int


def list_labelled(folder: Path, classes: int) -> list[LabelledFile]:
    """The pictures of a folder whose subfolders are the classes: the first of each class, the second of each, ...

    So the first n cover the classes evenly. DataError if the number of subfolders is not `classes`.
    """
    files = list_images(folder)
    names = sorted({file.name.partition("/")[0] for file in files if "/" in file.name}, key=natural_key)
    if len(names) != classes:
        raise DataError(
            f"{folder} has {len(names)} subfolders with pictures, the network has {classes} classes; give a folder "
            f"with one subfolder per class, or with tile sheets (<split>.png and <split>_labels.npy)"
        )
    number = {name: label for label, name in enumerate(names)}
    turns = dict.fromkeys(number.values(), 0)
    found: list[tuple[int, int, ImageFile]] = []
    for file in files:
        if "/" in file.name:
            label = number[file.name.partition("/")[0]]
            found.append((turns[label], label, file))
            turns[label] += 1
    return [LabelledFile(file, label) for _, label, file in sorted(found, key=lambda one: one[:2])]


def read_square(file: LabelledFile, side: int) -> NDArray[np.uint8] | Skipped:
    """The centre of a picture, resized to uint8 [side, side, 3]; Skipped if it cannot be read."""
    try:
        return centre_square(read_image(file.image.path), side)
    except UnreadableImageError as error:
        return Skipped(file.image.name, error.reason)


def centre_square(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize RGB uint8 [H, W, 3] by its shorter side and cut the centre [side, side, 3]."""
    from PIL import Image

    height, width = pixels.shape[:2]
    if (height, width) == (side, side):
        return pixels
    shorter = round(side * _MARGIN) if side >= _LARGE_INPUT else side
    ratio = shorter / min(height, width)
    size = (max(shorter, round(width * ratio)), max(shorter, round(height * ratio)))
    resized = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return resized[top : top + side, left : left + side]
