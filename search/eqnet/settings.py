"""EqnetSettings: everything that decides the training of a supernet besides the network, its space and the samples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from bitwright.foundation.errors import UsageError
from search.eqnet.guidance import ClassGuidance, Guidance, ImageGuidance, LogitDistance


class Guide(StrEnum):
    """Who guides a subnet."""

    WIDER = "wider"
    """The wider subnets, and nobody the widest one: the paper's."""
    FLOAT_FIRST = "float_first"
    """The wider subnets, and the network as it was given the widest one: not in the paper (section 11.1)."""
    FLOAT = "float"
    """The network as it was given all of them: ours."""


@dataclass(frozen=True)
class EqnetSettings:
    """`steps` are optimiser steps on batches of `batch` samples, all processes together; each is `2 + randoms` passes.

    Rates are Adam's, without weight decay: weights as they are, or `relative` to the root mean square of their layer's
    weights at the start; scales as relative change, offsets in units of the first scale. `share`, `temperature`,
    `kurt_rate` and `skew_rate` are those of the authors' release. `wdr_share`: scale both rates at the start so that
    the regulariser's gradient has this share of the task's (section 11.2). `logarithm`: the logarithms of the subnets'
    losses are added up, so that each gradient is relative to its own loss. `temperature` and `logits` are for classes,
    `feature_weight`, `laplace` and `gate` for images.
    """

    steps: int = 3000
    batch: int = 128
    patch: int = 48
    weight_rate: float = 1e-3
    relative: bool = False
    scale_rate: float = 1e-3
    offset_rate: float = 1e-2
    warm_up: int = 0
    final_rate: float = 0.0
    clip_value: float | None = 1.0
    clip_norm: float | None = None
    randoms: int = 1
    global_share: float = 0.5
    share: float = 0.5
    temperature: float = 1.0
    logits: LogitDistance = LogitDistance.KL
    feature_weight: float = 0.0
    laplace: bool = False
    gate: bool = False
    guide: Guide = Guide.WIDER
    logarithm: bool = False
    kurt_rate: float = 0.015
    skew_rate: float = 1.0
    wdr_share: float | None = None
    amp: bool = False
    log_every: int = 10
    save_seconds: float = 30.0
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """UsageError names the first field out of range."""
        for name in ("steps", "batch", "patch", "randoms", "log_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"supernet: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("share", "global_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"supernet: {name} is a share of 0 to 1, not {getattr(self, name)}")
        for name in ("kurt_rate", "skew_rate", "feature_weight", "warm_up", "weight_rate", "scale_rate", "offset_rate"):
            if getattr(self, name) < 0:
                raise UsageError(f"supernet: {name} must not be negative")
        if self.temperature <= 0:
            raise UsageError(f"supernet: temperature must be above 0, not {self.temperature}")

    @staticmethod
    def for_images() -> EqnetSettings:
        """A recipe of our own for networks whose output is an image.

        FSRCNN x4, 400 steps, two seeds, PSNR-Y on Set14 at 8, 6 and 4 bits: 27.32, 26.93 and 24.48 dB; rounded in the
        same way without training 27.37, 26.89 and 23.54 (`benchmarks/results/eqnet_study_sr`).
        """
        return EqnetSettings(
            batch=16, weight_rate=0.012, relative=True, scale_rate=6e-3, clip_value=None, clip_norm=1.0, share=1.0,
            guide=Guide.FLOAT, logarithm=True, kurt_rate=0.0, skew_rate=0.0, wdr_share=0.05,
        )  # fmt: skip

    @staticmethod
    def for_classes() -> EqnetSettings:
        """A recipe of our own for short trainings of classifiers: the one for images, with logits in their place.

        The best one of seven trials on ResNet-20 and CIFAR-10 (200 steps of 64), which are not kept, by the agreement
        of the subnets' logits with the float network's on held-out images. Its figures, beside those of the paper's
        rates, are in `benchmarks/results/eqnet_study`.
        """
        return EqnetSettings(
            weight_rate=0.012, relative=True, scale_rate=6e-3, clip_value=None, clip_norm=1.0, share=1.0,
            guide=Guide.FLOAT, logits=LogitDistance.SQUARED, logarithm=True,
        )  # fmt: skip

    def label(self, *, images: bool) -> str:
        """What results are called: by the paper's name only where its losses have been taken."""
        paper = self.guide is Guide.WIDER and self.logits is LogitDistance.KL and not self.logarithm
        return "EQ-Net" if paper and not images else "EQ-Net-style (adapted)"

    def guidance(self, *, images: bool) -> Guidance:
        """The losses of a step, for logits or for images."""
        if images:
            return ImageGuidance(
                self.share, self.feature_weight, laplace=self.laplace, gate=self.gate, logarithm=self.logarithm
            )
        return ClassGuidance(self.share, self.temperature, logits=self.logits, logarithm=self.logarithm)

    def fingerprint(self) -> str:
        """Hash of what decides the result; how often it is saved and logged does not."""
        described = {k: v for k, v in asdict(self).items() if k not in {"log_every", "save_seconds", "workers"}}
        if self.logits is LogitDistance.KL:
            # Supernets from before there was a choice go on.
            del described["logits"]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
