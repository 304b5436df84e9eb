"""Random aligned (LR, HR) patches for training, a pure function of the seed and the index."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bitwright.foundation.errors import DataError, UsageError
from workloads.super_resolution.dataset import Pair, PairFolder
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.network_format import to_network

CACHE_BYTES = 4 << 30


class PatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """`length` random patches from the pictures of several folders.

    Item i is (lr [C, patch, patch], hr [C, patch * scale, patch * scale]) in the network's format. It depends on
    `seed`, i and the files only, so a job that stopped after item i goes on with i + 1 as if it never had. Pictures
    are shrunk whole and cropped then, and are drawn in proportion to the patches they hold; `augment` adds one of the
    eight flips and quarter turns. The first `skip` pictures of each folder in natural order are left out. Decoded
    pictures are kept as uint8, up to `cache_bytes` over all folders.

    `stretched` in [0, 1]: the share of the patches whose contrast is stretched until most of them is black or white,
    as in text and drawings, which photographs hold little of. Both sides are stretched alike, so the LR of such a patch
    is not quite its HR made smaller: they are for training against a teacher's output.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        io: SRFormat,
        patch: int,
        length: int,
        seed: int = 0,
        *,
        augment: bool = True,
        cache_bytes: int = CACHE_BYTES,
        skip: int = 0,
        stretched: float = 0.0,
    ) -> None:
        if not folders or patch < 1 or length < 1:
            raise UsageError(f"training needs folders, a patch and a length, not {len(folders)}, {patch} and {length}")
        if not 0 <= stretched <= 1:
            raise UsageError(f"stretched is a share of the patches, from 0 to 1, not {stretched}")
        self._stretched = stretched
        self._io, self._patch, self._length, self._seed, self._augment = io, patch, length, seed, augment
        self._folders: list[PairFolder] = []
        sizes: list[int] = []
        room = cache_bytes
        for folder in folders:
            pairs = PairFolder(folder, io.scale, min_lr_side=patch, cache_bytes=max(0, room), purpose="training")
            if len(pairs) <= skip:
                raise DataError(f"{folder} has {len(pairs)} pictures that training can use; it needs more than {skip}")
            room -= pairs.cached_bytes
            pairs = pairs[skip:]
            self._folders.append(pairs)
            sizes += [(height - patch + 1) * (width - patch + 1) for height, width in pairs.lr_sizes]
        self._places = [(pairs, index) for pairs in self._folders for index in range(len(pairs))]
        self._sizes = sizes
        self._bounds = np.cumsum(sizes)

    def __len__(self) -> int:
        return self._length

    @property
    def pictures(self) -> int:
        """Number of pictures that patches are drawn from."""
        return len(self._places)

    def part(self, pictures: Sequence[int], seed: int) -> PatchDataset:
        """The same data drawn from some of the pictures only, by their numbers; nothing is decoded again."""
        if not pictures:
            raise UsageError("a part of the training data needs at least one picture")
        made = copy(self)
        made._places = [self._places[number] for number in pictures]
        made._sizes = [self._sizes[number] for number in pictures]
        made._bounds, made._seed = np.cumsum(made._sizes), seed
        return made

    def patches_at(self, side: int, stride: int) -> int:
        """How many HR patches of `side` pixels at every `stride` the pictures hold; a picture counts at least once."""
        total = 0
        for pairs, number in self._places:
            rows, columns = (size * self._io.scale for size in pairs.lr_sizes[number])
            total += max(1, (rows - side) // stride + 1) * max(1, (columns - side) // stride + 1)
        return total

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self._length:
            raise IndexError(f"patch {index} of {self._length}")
        lr, hr = self.patch(index)
        return to_network(lr, self._io)[0], to_network(hr, self._io)[0]

    def patch(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Item `index` as RGB uint8 (lr [patch, patch, 3], hr)."""
        draw = np.random.default_rng([self._seed, index])
        chosen = int(np.searchsorted(self._bounds, draw.integers(self._bounds[-1]), side="right"))
        pairs, number = self._places[chosen]
        pair = pairs[number]
        lr, hr = _crop(pair, self._patch, self._io.scale, draw)
        if self._stretched and draw.random() < self._stretched:
            lr, hr = _stretch(lr, hr, draw)
        if not self._augment:
            return lr, hr
        turns, mirror = int(draw.integers(4)), bool(draw.integers(2))
        return _turn(lr, turns, mirror), _turn(hr, turns, mirror)


def _crop(pair: Pair, patch: int, scale: int, draw: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    top = int(draw.integers(pair.lr.shape[0] - patch + 1))
    left = int(draw.integers(pair.lr.shape[1] - patch + 1))
    lr = pair.lr[top : top + patch, left : left + patch]
    top, left, side = top * scale, left * scale, patch * scale
    return lr, pair.hr[top : top + side, left : left + side]


def _stretch(
    lr: NDArray[np.uint8], hr: NDArray[np.uint8], draw: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both with 2 to 16 times the contrast around the brightness of a random pixel, cut to what a picture can hold."""
    row, column = draw.integers(lr.shape[0]), draw.integers(lr.shape[1])
    middle, gain = float(lr[row, column].mean()), 2.0 ** draw.uniform(1, 4)
    levels = np.clip((np.arange(256) - middle) * gain + 128, 0, 255).round().astype(np.uint8)
    return levels[lr], levels[hr]


def _turn(image: NDArray[np.uint8], turns: int, mirror: bool) -> NDArray[np.uint8]:
    turned = np.rot90(image, turns)
    return turned[:, ::-1] if mirror else turned
