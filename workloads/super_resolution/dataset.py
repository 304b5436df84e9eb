"""A folder of pictures as (LR, HR) pairs: LR is made from HR by the bicubic degradation, so no LR folder is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation import progress
from bitwright.foundation.errors import DataError
from workloads.parallel import ordered_map
from workloads.super_resolution.bicubic import crop_to_multiple, downscale
from workloads.super_resolution.images import (
    ImageFile,
    Skipped,
    UnreadableImageError,
    image_size,
    list_images,
    note_skipped,
    nothing_usable,
    read_image,
)

CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Pair:
    """RGB uint8 `lr` [h, w, 3] and `hr` [h * scale, w * scale, 3] of one picture."""

    name: str
    lr: NDArray[np.uint8]
    hr: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Bytes of both images."""
        return self.lr.nbytes + self.hr.nbytes


def read_pair(image: ImageFile, scale: int, min_lr_side: int = 1, max_lr_pixels: int | None = None) -> Pair | Skipped:
    """Decode a picture, crop it to multiples of `scale` and shrink it; Skipped if unreadable or of an unusable size."""
    try:
        hr = crop_to_multiple(read_image(image.path), scale)
    except UnreadableImageError as error:
        return Skipped(image.name, error.reason)
    if min(hr.shape[:2]) < max(1, min_lr_side) * scale:
        return Skipped(image.name, _too_small(min_lr_side, scale))
    if max_lr_pixels is not None and hr.shape[0] * hr.shape[1] > max_lr_pixels * scale**2:
        return Skipped(image.name, f"more than {max_lr_pixels / 1e6:g} million low-resolution pixels at once")
    return Pair(image.name, downscale(hr, scale), np.ascontiguousarray(hr))


def _too_small(min_lr_side: int, scale: int) -> str:
    return f"smaller than {min_lr_side * scale}x{min_lr_side * scale} pixels"


class PairFolder(Sequence[Pair]):
    """The usable pictures of a folder in natural order.

    Every picture is decoded once when the object is made, on all cores, so its length is final; the first
    `cache_bytes` of pairs stay in memory, the others are decoded again when they are asked for. Unreadable pictures and
    those with an LR side under `min_lr_side` are named through `progress.note`. `lr_sizes` holds the (height, width)
    of each LR. DataError if none is left.
    """

    def __init__(
        self,
        folder: Path,
        scale: int,
        *,
        min_lr_side: int = 1,
        max_lr_pixels: int | None = None,
        limit: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        purpose: str = "evaluation",
    ) -> None:
        self._read = partial(read_pair, scale=scale, min_lr_side=min_lr_side, max_lr_pixels=max_lr_pixels)
        self._images: list[ImageFile] = []
        self.lr_sizes: list[tuple[int, int]] = []
        self._cache: dict[str, Pair] = {}
        files = list_images(folder)
        skipped: list[Skipped] = []
        room = cache_bytes
        pairs = progress.track(ordered_map(self._read, files), f"reading {folder}", len(files))
        for file, pair in zip(files, pairs, strict=False):
            if isinstance(pair, Skipped):
                skipped.append(pair)
                continue
            self._images.append(file)
            self.lr_sizes.append(pair.lr.shape[:2])
            room -= pair.nbytes
            if room >= 0:
                self._cache[file.name] = pair
            if len(self._images) == limit:
                break
        note_skipped(skipped, folder, purpose)
        if not self._images:
            raise nothing_usable(skipped, folder, purpose)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> PairFolder: ...
    def __getitem__(self, index: int | slice) -> Pair | PairFolder:
        if isinstance(index, slice):
            part = copy(self)
            part._images, part.lr_sizes = self._images[index], self.lr_sizes[index]
            return part
        return self._load(self._images[index])

    def __iter__(self) -> Iterator[Pair]:
        """All pairs in order, the uncached ones decoded ahead on all cores."""
        return ordered_map(self._load, self._images)

    @property
    def cached_bytes(self) -> int:
        """Bytes of the decoded pairs that are kept in memory."""
        return sum(pair.nbytes for pair in self._cache.values())

    def _load(self, image: ImageFile) -> Pair:
        pair = self._cache.get(image.name) or self._read(image)
        if isinstance(pair, Skipped):
            raise DataError(f"{image.path} was readable a moment ago and now is not: {pair.reason}")
        return pair


def lr_crops(folder: Path, scale: int, count: int, size: int, seed: int = 0, skip: int = 0) -> list[NDArray[np.uint8]]:
    """`count` LR crops, uint8 [size, size, 3], spread evenly over the folder's pictures in an order drawn by `seed`.

    The first `skip` pictures in natural order are left out.

    The pictures are shrunk whole and cropped then, so the crops look as in evaluation. Unreadable and too small
    pictures are named and skipped; DataError if none is left. The same arguments and files give the same crops.
    """
    files = list_images(folder)[skip:]
    order = np.random.default_rng([seed, len(files)]).permutation(len(files))
    candidates = [(int(number), files[number]) for number in order]
    found: list[tuple[int, int, NDArray[np.uint8]]] = []
    skipped: list[Skipped] = []
    first = 0
    while len(found) < count:
        usable: list[tuple[int, ImageFile]] = []
        each = -(-(count - len(found)) // len(candidates))
        cut = partial(_cut, scale=scale, size=size, seed=seed, numbers=range(first, first + each))
        batches = ordered_map(cut, candidates)
        enough = -(-(count - len(found)) // each)
        good = (pair for pair in zip(candidates, batches, strict=False) if _kept(pair[1], skipped))
        for place, (candidate, crops) in enumerate(islice(good, enough)):
            usable.append(candidate)
            if not isinstance(crops, Skipped):
                found += [(first + turn, place, crop) for turn, crop in enumerate(crops)]
        if not usable:
            raise nothing_usable(skipped, folder, "calibration")
        candidates, first = usable, first + each
    note_skipped(skipped, folder, "calibration")
    return [crop for _, _, crop in sorted(found, key=lambda one: one[:2])[:count]]


def _kept(result: list[NDArray[np.uint8]] | Skipped, skipped: list[Skipped]) -> bool:
    if isinstance(result, Skipped):
        skipped.append(result)
        return False
    return True


def _cut(
    candidate: tuple[int, ImageFile], scale: int, size: int, seed: int, numbers: range
) -> list[NDArray[np.uint8]] | Skipped:
    """The crops of one picture with these numbers; each number has its own place, whatever else is asked for."""
    index, image = candidate
    try:
        # The header rules most small pictures out before they are decoded.
        if image_size(image.path)[0] < size * scale:
            return Skipped(image.name, _too_small(size, scale))
    except UnreadableImageError as error:
        return Skipped(image.name, error.reason)
    pair = read_pair(image, scale, size)
    if isinstance(pair, Skipped):
        return pair
    crops = []
    for number in numbers:
        draw = np.random.default_rng([seed, index, number])
        top = int(draw.integers(pair.lr.shape[0] - size + 1))
        left = int(draw.integers(pair.lr.shape[1] - size + 1))
        crops.append(pair.lr[top : top + size, left : left + size].copy())
    return crops
