"""RecoverySettings: everything that decides a recovery training besides the model, the teacher and the samples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from bitwright.foundation.errors import UsageError


class OutputLoss(StrEnum):
    """How the output is compared with the teacher's."""

    L1 = "l1"
    """Mean absolute error over the standard deviation of the teacher's output."""
    L2 = "l2"
    """Mean squared error over the variance of the teacher's output."""
    KL = "kl"
    """Kullback-Leibler divergence of class probabilities; outputs are logits [N, classes]."""


class Arithmetic(StrEnum):
    """What convolutions compute in while training; quantisers, losses and weights are float32 always."""

    FLOAT32 = "float32"
    BF16 = "bf16"


@dataclass(frozen=True)
class RecoverySettings:
    """How long, on what and how fast. Rates are Adam's: weights in units of their first integer step, scales as
    relative change, zero points in integers, biases in units of one input step on all taps.

    Either `steps`, or `minutes` of wall clock, which become a fixed number of steps once the pace is known. `batch` is
    global: all processes together. `patch` is the side of a training crop (LR pixels) where samples are crops.
    """  # fmt: skip

    steps: int | None = 1500
    minutes: float | None = None
    batch: int = 16
    patch: int = 48
    weight_rate: float = 0.02
    scale_rate: float = 5e-4
    zero_rate: float = 0.01
    bias_rate: float = 0.01
    warm_up: int = 30
    final_rate: float = 0.01
    ema: float = 0.99
    output: OutputLoss = OutputLoss.L2
    output_weight: float = 1.0
    feature_weight: float = 0.1
    truth_weight: float = 0.0
    self_distillation: float = 0.0
    layers_per_tap: int = 16
    clip: float | None = None
    arithmetic: Arithmetic = Arithmetic.FLOAT32
    channels_last: bool = False
    checks: int = 12
    log_every: int = 10
    save_seconds: float = 30.0
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """UsageError names the first field out of range."""
        if (self.steps is None) == (self.minutes is None):
            raise UsageError("recovery needs either steps or minutes")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and self.minutes <= 0):
            raise UsageError("recovery needs at least 1 step, or more than 0 minutes")
        for name in ("batch", "patch", "layers_per_tap", "checks", "log_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"recovery: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("ema", "self_distillation"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"recovery: {name} is a share of at least 0 and below 1, not {getattr(self, name)}")
        weights = (self.output_weight, self.feature_weight, self.truth_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise UsageError("recovery: the weights of the losses must not be negative, nor all zero")

    @classmethod
    def for_classifier(cls, bits: int, *, steps: int | None, minutes: float | None = None, checks: int = 12,
                       seed: int = 0) -> RecoverySettings:  # fmt: skip
        """Settings for a classifier whose narrowest layer has `bits`: its logits are matched, in batches of 64.

        Squared error of logits, not the divergence of probabilities: a network is sure of nearly all images that it
        was trained on, and where it is sure the divergence has no gradient. Rates that bring the logits of a ResNet-20
        nearer on held-out images; ten times these ones at 8 bits moved it away.
        """
        many = bits >= 8
        rate = 0.002 if many else 0.004
        return cls(
            steps=steps, minutes=minutes, batch=64, output=OutputLoss.L2, feature_weight=0.0, ema=0.98, checks=checks,
            seed=seed, weight_rate=rate, zero_rate=rate, bias_rate=rate, scale_rate=1e-4 if many else 6e-4,
        )  # fmt: skip

    def fingerprint(self) -> str:
        """Hash of what decides the result; how often it is saved and logged does not."""
        described = {k: v for k, v in asdict(self).items() if k not in {"log_every", "save_seconds", "workers"}}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
