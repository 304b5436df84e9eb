"""EqnetSettings: everything that decides the training of a supernet besides the network, its space and the samples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from bitwright.foundation.errors import UsageError
from search.eqnet.guidance import ClassGuidance, Guidance, ImageGuidance


@dataclass(frozen=True)
class EqnetSettings:
    """`steps` are optimiser steps on batches of `batch` samples, all processes together; each is `2 + randoms` passes.

    Rates are Adam's, without weight decay: weights as they are, or `relative` to the root mean square of their layer's
    weights at the start; scales as relative change, offsets in units of the first scale. `share`, `temperature`,
    `kurt_rate` and `skew_rate` are those of the authors' release. `wdr_share`: scale both rates at the start so that
    the regulariser's gradient has this share of the task's (section 11.2). `float_teacher`: the network as it was given
    guides the widest subnet too, which is not in the paper (11.1).
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
    feature_weight: float = 0.0
    laplace: bool = False
    gate: bool = False
    float_teacher: bool = False
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
        """The starting recipe of section 11.5, which is not measured: small batches, gradients clipped by norm."""
        return EqnetSettings(batch=16, weight_rate=1e-4, clip_value=None, clip_norm=1.0, wdr_share=0.05)

    def guidance(self, *, images: bool) -> Guidance:
        """The losses of a step, for logits or for images."""
        if images:
            return ImageGuidance(self.share, self.feature_weight, laplace=self.laplace, gate=self.gate)
        return ClassGuidance(self.share, self.temperature)

    def fingerprint(self) -> str:
        """Hash of what decides the result; how often it is saved and logged does not."""
        described = {k: v for k, v in asdict(self).items() if k not in {"log_every", "save_seconds", "workers"}}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
