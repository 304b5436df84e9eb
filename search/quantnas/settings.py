"""SearchSettings and RetrainSettings: what decides a search besides its space, costs and pictures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from bitwright.foundation.errors import UsageError
from search.quantnas.derive import Derivation
from search.quantnas.entropy import EntropyReduction, Sparsity
from search.quantnas.projection import GUMBELS, Projection
from search.quantnas.quant_settings import ActQuant, QuantSettings

PATCH_SIDE, PATCH_STRIDE = 200, 70
"""HR patches that the paper cuts pictures into; an epoch has as many samples."""

_NOT_IN_RESULT = {"log_every", "save_seconds", "workers", "replay"}


@dataclass(frozen=True)
class SearchSettings:
    """One search. `batch` is global: all processes together. `patch` is the side of a crop in LR pixels.

    `steps_per_epoch` None: as many as give one sample for each 200-pixel patch at stride 70 of the weights' pictures.
    `share` is the paper's rho: half of it goes to the weights' pictures, half to the architecture's, the rest selects.
    `penalty` weighs expected cost over that of the uniform start. With `budget`, in the table's unit and for the whole
    network, it is only the start of the multiplier, which grows by `dual_rate` times the relative excess of the network
    that the logits stand for, at every step. `replay`: capture the steps on a GPU. `scale_rate`: of the logarithms of
    quantisers' steps, which at the weights' rate stay where they start.
    """

    epochs: int = 20
    warm_up: int = 0
    steps_per_epoch: int | None = None
    batch: int = 32
    patch: int = 45
    share: float = 0.7
    weight_rate: float = 1e-3
    scale_rate: float = 1e-2
    weight_decay: float = 3e-8
    clip: float = 5.0
    alpha_rate: float = 3e-4
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    sparsity: Sparsity = Sparsity.ENTROPY
    sparsity_weight: float = 1e-3
    entropy_reduction: EntropyReduction = EntropyReduction.SUM
    penalty: float = 0.0
    budget: float | None = None
    dual_rate: float = 1e-3
    derivation: Derivation = Derivation.JOINT
    projection: Projection = Projection.SOFTMAX
    temperature: tuple[float, float] | None = None
    adq: bool = True
    quant: QuantSettings = field(default_factory=QuantSettings)
    recompute: bool = False
    amp: bool = False
    selection_batches: int = 2
    seed: int = 777
    log_every: int = 10
    save_seconds: float = 60.0
    workers: int = 0
    replay: bool = True

    def __post_init__(self) -> None:
        """UsageError names the first field out of range."""
        for name in ("epochs", "batch", "patch", "log_every", "selection_batches"):
            if getattr(self, name) < 1:
                raise UsageError(f"search: {name} must be at least 1, not {getattr(self, name)}")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise UsageError(f"search: steps_per_epoch must be at least 1, not {self.steps_per_epoch}")
        if not 0 <= self.warm_up < self.epochs:
            raise UsageError(f"search: warm_up must leave epochs to search in, not {self.warm_up} of {self.epochs}")
        if not 0 < self.share < 1:
            raise UsageError(f"search: share is above 0 and below 1, not {self.share}")
        _positive("search", self, "weight_rate", "scale_rate", "clip", "alpha_rate", "dual_rate")
        _not_negative("search", self, "weight_decay", "penalty", "sparsity_weight", "save_seconds", "workers")
        if not all(0 <= beta < 1 for beta in self.alpha_betas):
            raise UsageError(f"search: alpha_betas are at least 0 and below 1, not {self.alpha_betas}")
        if self.budget is not None and self.budget <= 0:
            raise UsageError(f"search: budget must be positive, not {self.budget}")
        if min(self.temperatures) <= 0:
            raise UsageError(f"search: temperatures must be positive, not {self.temperature}")

    def fingerprint(self) -> str:
        """Hash of what decides the result; how often it is saved and logged, and how it is run, do not."""
        return _hash(asdict(self))

    @property
    def temperatures(self) -> tuple[float, float]:
        """The first and the last one; where none is given, those of the paper for Gumbel samples, and else 1."""
        default = (10.0, 0.1) if self.projection in GUMBELS else (1.0, 1.0)
        return default if self.temperature is None else self.temperature

    def temperature_at(self, epoch: int) -> float:
        """Linear from the first to the last epoch behind the warm-up."""
        first, last = self.temperatures
        span = max(1, self.epochs - self.warm_up - 1)
        return first + (last - first) * min(1.0, max(0.0, (epoch - self.warm_up) / span))


@dataclass(frozen=True)
class RetrainSettings:
    """Training of the network found, from random weights. Fields as in SearchSettings.

    In the first `float_epochs` nothing is rounded; the steps are measured again where rounding begins.
    """

    epochs: int = 30
    steps_per_epoch: int | None = None
    batch: int = 32
    patch: int = 45
    rate: float = 1e-4
    scale_rate: float = 1e-2
    weight_decay: float = 0.0
    clip: float | None = None
    float_epochs: int = 0
    act_quant: ActQuant = ActQuant.LSQ
    amp: bool = False
    checked_pictures: int = 24
    seed: int = 777
    log_every: int = 50
    save_seconds: float = 60.0
    workers: int = 0
    replay: bool = True

    def __post_init__(self) -> None:
        """UsageError names the first field out of range."""
        for name in ("epochs", "batch", "patch", "log_every", "checked_pictures"):
            if getattr(self, name) < 1:
                raise UsageError(f"retraining: {name} must be at least 1, not {getattr(self, name)}")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise UsageError(f"retraining: steps_per_epoch must be at least 1, not {self.steps_per_epoch}")
        if not 0 <= self.float_epochs < self.epochs:
            held = f"{self.float_epochs} of {self.epochs}"
            raise UsageError(f"retraining: float_epochs must leave epochs that round, not {held}")
        _positive("retraining", self, "rate", "scale_rate", "clip")
        _not_negative("retraining", self, "weight_decay", "save_seconds", "workers")

    def fingerprint(self) -> str:
        """Hash of what decides the result."""
        return _hash(asdict(self))


def _positive(what: str, settings: SearchSettings | RetrainSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise UsageError(f"{what}: {name} must be positive, not {value}")


def _not_negative(what: str, settings: SearchSettings | RetrainSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not value >= 0:
            raise UsageError(f"{what}: {name} must not be negative, not {value}")


def _hash(values: dict[str, object]) -> str:
    described = {k: v for k, v in values.items() if k not in _NOT_IN_RESULT}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
