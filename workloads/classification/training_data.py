"""Labelled training images, flipped and shifted at random: a pure function of the seed and the index."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from workloads.classification.cifar_sheets import LabelledImages
from workloads.classification.format import ClassificationFormat
from workloads.classification.preparation import normalised

SHIFT = 8
"""The side over the largest shift: 4 pixels at 32x32."""


class ShuffledImages(Dataset[tuple[Tensor, Tensor]]):
    """Item i is (image [3, side, side] as the network takes it, its class []), for any i >= 0.

    Every run of as many items as there are images is a permutation of them, drawn by `seed`. An image is mirrored
    or not, and shifted by up to side / SHIFT pixels; what comes in is black.
    """

    def __init__(self, data: LabelledImages, io: ClassificationFormat, seed: int = 0) -> None:
        self._data, self._io, self._seed = data, io, seed
        self._epoch, self._order = -1, np.arange(0)

    def __len__(self) -> int:
        return len(self._data.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(index, len(self))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self))
        chosen = self._order[place]
        draw = np.random.default_rng([self._seed, 1, index])
        image = self._data.images[chosen]
        side = image.shape[0]
        reach = side // SHIFT
        padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)))
        top, left = (int(draw.integers(2 * reach + 1)) for _ in range(2))
        cut = padded[top : top + side, left : left + side]
        if draw.integers(2):
            cut = cut[:, ::-1]
        return normalised(cut[None], self._io)[0], torch.tensor(int(self._data.labels[chosen]))
