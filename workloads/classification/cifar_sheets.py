"""Labelled small images stored as tile sheets: <split>.png or <split>_0.png, <split>_1.png ..., and <split>_labels.npy.

A sheet is an RGB PNG of square tiles, row by row; the labels are integers in tile order, over all sheets of the split.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import DataError
from workloads.super_resolution.images import natural_key, read_image

_LABELS = "_labels.npy"


@dataclass(frozen=True)
class LabelledImages:
    """RGB uint8 `images` [N, side, side, 3] and int64 `labels` [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def splits(folder: Path) -> list[str]:
    """Names of the splits that the folder holds, sorted; empty if it is not a folder of tile sheets."""
    return sorted(path.name.removesuffix(_LABELS) for path in Path(folder).glob(f"?*{_LABELS}"))


def read_split(folder: Path, split: str, side: int, classes: int) -> LabelledImages:
    """The images and labels of a split, with tiles of `side` pixels; DataError if they do not belong together."""
    folder = Path(folder)
    named = re.compile(re.escape(split) + r"(_\d+)?\.png")
    sheets = sorted((path for path in folder.glob("*.png") if named.fullmatch(path.name)), key=_by_number)
    if not sheets:
        raise DataError(f"{folder} has {split}{_LABELS} but no sheet {split}.png or {split}_0.png")
    images = np.concatenate([_tiles(sheet, side) for sheet in sheets])
    path = folder / f"{split}{_LABELS}"
    labels = _labels(path, classes)
    if len(labels) != len(images):
        raise DataError(
            f"{path} has {len(labels)} labels for {len(images)} tiles of {side}x{side} pixels in its sheets"
        )
    return LabelledImages(images, labels)


def _by_number(path: Path) -> tuple[tuple[int, int, str], ...]:
    return natural_key(path.name)


def _tiles(sheet: Path, side: int) -> NDArray[np.uint8]:
    pixels = read_image(sheet)
    height, width = pixels.shape[:2]
    if height % side or width % side:
        raise DataError(f"{sheet} is {width}x{height} pixels, which is no whole number of {side}x{side} tiles")
    grid = pixels.reshape(height // side, side, width // side, side, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)


def _labels(path: Path, classes: int) -> NDArray[np.int64]:
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the labels {path}: {' '.join(str(error).split())}") from error
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path} must hold a one-dimensional array of integers")
    if not labels.size:
        raise DataError(f"{path} holds no label")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(f"{path} holds labels {labels.min()}..{labels.max()}, the network has classes 0..{classes - 1}")
    return labels.astype(np.int64)
