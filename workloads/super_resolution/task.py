"""SuperResolution: pictures, degradation, loss and PSNR-Y around a super-resolution network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitwright.foundation import progress
from bitwright.foundation.errors import UsageError
from workloads.embedded.pictures import read_picture
from workloads.super_resolution.bicubic import upscale
from workloads.super_resolution.dataset import Pair, PairFolder, lr_crops
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.images import list_images
from workloads.super_resolution.metrics import SSIM_WINDOW, STANDARD, Protocol, psnr, shave, ssim
from workloads.super_resolution.network_format import output_luma, to_network, to_rgb
from workloads.super_resolution.tiling import tiled
from workloads.super_resolution.training_data import PatchDataset
from workloads.workload import Predict, Quality, Sample, Workload

WHOLE_PIXELS = 1_500_000
"""Low-resolution pixels up to which a picture goes through a network at once."""
TILE = 512
"""Side of the windows that larger pictures are cut into, low-resolution pixels, halo included."""
ENDLESS = 2**62
"""Items of a training set that is drawn at random."""
HELD_OUT = 24
"""Most pictures of a training folder that are kept out of calibration to choose between plans."""


@dataclass(frozen=True)
class SRSample(Sample):
    """A Sample with the 8-bit RGB pictures that it was made of: `lr` [h, w, 3], `hr` [h * scale, w * scale, 3]."""

    lr: NDArray[np.uint8]
    hr: NDArray[np.uint8]


class SRSamples(Sequence[SRSample]):
    """The pairs of a folder in the network's format, made when they are asked for."""

    def __init__(self, pairs: PairFolder, io: SRFormat) -> None:
        self._pairs = pairs
        self._io = io

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> SRSample: ...
    @overload
    def __getitem__(self, index: slice) -> SRSamples: ...
    def __getitem__(self, index: int | slice) -> SRSample | SRSamples:
        if isinstance(index, slice):
            return SRSamples(self._pairs[index], self._io)
        return self._sample(self._pairs[index])

    def __iter__(self) -> Iterator[SRSample]:
        return map(self._sample, self._pairs)

    def _sample(self, pair: Pair) -> SRSample:
        return SRSample(pair.name, to_network(pair.lr, self._io), to_network(pair.hr, self._io), pair.lr, pair.hr)


class SuperResolution(Workload):
    """Single-image super-resolution by an integer scale, with LR made from HR by antialiased bicubic shrinking.

    Protocol: HR cropped at the bottom and right to a multiple of the scale; output clipped and rounded to 8-bit RGB;
    PSNR and SSIM on unrounded BT.601 studio Y without `scale` border pixels; mean over the images. A Y network is
    scored on its own clipped, unrounded Y. Another `protocol` changes what it names.
    """

    name = "super-resolution"
    metric = "PSNR-Y"
    unit = "dB"

    def __init__(self, io: SRFormat, protocol: Protocol = STANDARD) -> None:
        self.io, self.protocol = io, protocol
        self.min_input_side = io.min_input_side

    def example_input(self, height: int, width: int) -> Tensor:
        """A photograph's [1, C, height, width] centre crop, mirrored at its borders as far as needed."""
        if min(height, width) < 1:
            raise UsageError(f"an input of {height}x{width} pixels is empty")
        picture = read_picture("astronaut.png")
        sides = []
        for wanted, have in ((height, picture.shape[0]), (width, picture.shape[1])):
            place = np.arange(wanted) + max(0, (have - wanted) // 2)
            folded = place % (2 * have)
            sides.append(np.minimum(folded, 2 * have - 1 - folded))
        return to_network(picture[np.ix_(*sides)], self.io)

    def samples(self, folder: Path, limit: int | None = None) -> SRSamples:
        """The HR pictures of a folder (recursively) with their LR, in natural order, at most `limit`.

        Unreadable pictures, those too small for the network or the metric, and those over WHOLE_PIXELS for a network
        that cannot run by windows are named and skipped; DataError if
        none is left.
        """
        for_metric = 2 - (-SSIM_WINDOW // self.io.scale)
        least = max(self.min_input_side, for_metric)
        most = WHOLE_PIXELS if self.io.halo is None else None
        pairs = PairFolder(folder, self.io.scale, min_lr_side=least, max_lr_pixels=most, limit=limit)
        return SRSamples(pairs, self.io)

    def held_out(self, folder: Path) -> SRSamples:
        """The folder's first pictures in natural order: a quarter, at most HELD_OUT, at least one."""
        return self.samples(folder, limit=max(1, self._held_out_files(folder)))

    @staticmethod
    def _held_out_files(folder: Path) -> int:
        return min(HELD_OUT, len(list_images(folder)) // 4)

    def calibration(self, folder: Path, count: int, size: int, seed: int = 0) -> Tensor:
        """`count` LR crops [count, C, size, size] in the network's format, spread over the folder's HR pictures."""
        if count < 1 or size < self.min_input_side:
            least = self.min_input_side
            raise UsageError(
                f"calibration needs at least 1 crop of {least}x{least} LR pixels, not {count} of {size}x{size}"
            )
        crops = lr_crops(folder, self.io.scale, count, size, seed, skip=self._held_out_files(folder))
        return torch.cat([to_network(crop, self.io) for crop in crops])

    def training(self, folder: Path, size: int, seed: int = 0, *, stretched: float = 0.0) -> PatchDataset:
        """Random patches of `size` LR pixels, turned and mirrored, from the pictures that are not held out."""
        size, skip = max(size, self.min_input_side), self._held_out_files(folder)
        return PatchDataset([folder], self.io, size, ENDLESS, seed, skip=skip, stretched=stretched)

    def evaluate(self, predict: Predict, samples: Sequence[Sample]) -> Quality:
        """PSNR-Y of each sample and the mean; SSIM-Y's mean in `extra`. UsageError if an output has the wrong shape."""
        if not len(samples):
            raise UsageError("there is no sample to evaluate on")
        psnrs: dict[str, float] = {}
        ssims: list[float] = []
        with torch.no_grad():
            for sample in progress.track(samples, "evaluating PSNR-Y"):
                output, target = self._scored(self.bounded(predict, sample.input), sample.target)
                psnrs[sample.name] = psnr(output, target)
                ssims.append(ssim(output, target, self.protocol))
        mean = float(np.mean(list(psnrs.values())))
        return Quality(self.metric, self.unit, mean, psnrs, {"SSIM-Y": float(np.mean(ssims))})

    def bounded(self, predict: Predict, x: Tensor) -> Tensor:
        """The output for `x`, by windows where that is exact and the input is large, so that memory stays bounded."""
        if self.io.halo is None or x.shape[-2] * x.shape[-1] <= WHOLE_PIXELS:
            return predict(x)
        return tiled(predict, x, self.io.scale, TILE, self.io.halo)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean absolute error as a fraction of the value range, so that it is alike for networks of either range."""
        return torch.nn.functional.l1_loss(output, target) / self.io.value_max

    def psnr_y(self, output: Tensor, sample: Sample) -> float:
        """PSNR-Y in dB of one output under the protocol."""
        return psnr(*self._scored(output, sample.target))

    def to_image(self, output: Tensor, sample: Sample | None = None) -> NDArray[np.uint8]:
        """The output as a picture, uint8 [H, W, 3]; a Y network's takes its chroma from the sample's enlarged LR."""
        chroma = upscale(sample.lr, self.io.scale) if isinstance(sample, SRSample) else None
        return to_rgb(output, self.io, chroma)

    def _scored(self, output: Tensor, target: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if output.shape != target.shape:
            raise UsageError(
                f"the network gave {list(output.shape)} where {list(target.shape)} is needed at scale {self.io.scale}"
            )
        border = self.io.scale if self.protocol.border is None else self.protocol.border
        lumas = [output_luma(image, self.io) for image in (output, target)]
        if self.protocol.whole_luma:
            lumas = [luma.round() for luma in lumas]
        return shave(lumas[0], border), shave(lumas[1], border)
