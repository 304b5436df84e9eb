"""What a report says of weights and channels that were removed."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MaskTrainingResult(_Part):
    """How masks were trained in float, ahead of 8 bits. Scores are of hard-masked networks on held-out samples.

    The training starts from the dense network, or with `one_shot` from the one that was pruned without training: layer
    by layer, what is kept solved for anew. Of that one and the trained one, the better one is kept.
    """

    method: str
    steps: NonNegativeInt
    best_step: NonNegativeInt = Field(description="step of the best weights; 0: those of the start")
    seconds: Annotated[float, Field(ge=0)]
    before: float = Field(description="score of the start, hard-masked: dB, or minus the KL divergence of a classifier")
    after: float = Field(description="score of the best weights")
    untrained_drop: float | None = Field(
        default=None, description="drop of the network pruned without training, in the metric's unit; null: not told"
    )
    trained_drop: float | None = Field(default=None, description="drop of the best weights, likewise")
    at_steps: tuple[NonNegativeInt, ...] = Field(default=(), description="steps that `curves` were taken at")
    curves: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="figures of the training, means over pruned layers; no measure of quality"
    )

    @property
    def left_out(self) -> bool:
        """Whether the network that was pruned without training is better, and was kept."""
        drops = self.untrained_drop, self.trained_drop
        return drops[0] is not None and drops[1] is not None and not drops[1] <= drops[0]


class SparsityResult(_Part):
    """N:M weights: what was planned, what the final file holds, and whether the runtime gains time from it."""

    asked: str = Field(description="the pattern that was asked for, N:M")
    layers: dict[str, NonNegativeInt] = Field(description="number of layers per pattern, as planned")
    dense: dict[str, str] = Field(default_factory=dict, description="layers that stayed dense, and why")
    notes: dict[str, str] = Field(default_factory=dict, description="layers whose pattern is not the one asked for")
    lost: dict[str, str] = Field(default_factory=dict, description="layers whose pattern the padded file does not keep")
    zeros: Annotated[float, Field(ge=0, le=1)] = Field(description="share of zeros among all weights of layers")
    size_only: bool = Field(description="no kernel of the runtime is known to gain time from the zeros of this plan")
    effect: str = Field(description="what the zeros do in the runtime, in words")
    warning: str = Field(default="", description="what was pruned in vain, in words")
    raw_bytes: NonNegativeInt = Field(description="ONNX file of the engine")
    deflated_bytes: NonNegativeInt = Field(description="the same, deflated")
    packed_bytes: NonNegativeInt = Field(description="packed safetensors file of the compressed network")
    unpacked_bytes: NonNegativeInt = Field(description="safetensors file of the compressed network")
    training: MaskTrainingResult | None = Field(default=None, description="null: the masks were taken once")


class NarrowedResult(_Part):
    """Channels that were removed because the device computes them in whole blocks anyway."""

    step: PositiveInt = Field(description="channels that one block of the device's kernels computes")
    drop: float = Field(description="on held-out samples, in the metric's unit, before any training")
    layers: dict[str, tuple[PositiveInt, PositiveInt]] = Field(description="layer -> channels before and after")
