"""What sparse training costs in FLOPs: a step of a dense layer is 2 f (1 + 1 + 1): forward, input and weight gradient.

Algorithmic: products with zeros are not counted. Realisable: the transpose of an N:M weight is not N:M along its own
reduction axis, so that the input's gradient is dense on hardware unless masks are transposable. Masks count as 0 FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action
from compress.sparsity.methods.method import Method
from compress.sparsity.schedules import Phases


@dataclass(frozen=True)
class Shares:
    """Shares of a dense layer's three products that a step computes, each in [0, 1]."""

    forward: float
    input_gradient: float
    weight_gradient: float

    @property
    def total(self) -> float:
        """Their sum; 3 for a dense layer."""
        return self.forward + self.input_gradient + self.weight_gradient


@dataclass(frozen=True)
class TrainedLayer:
    """A layer as the accounts see it. `macs`: of its dense forward product on a sample; `pattern` None: dense."""

    macs: int
    pattern: Sparsity | None = None
    channels: int = 1


@dataclass(frozen=True)
class TrainingFlops:
    """FLOPs of a whole training, in both accounts."""

    algorithmic: float
    realisable: float


def step_shares(action: Action, *, realisable: bool = False, transposable: bool = False) -> Shares:
    """The shares of one step under an action."""
    if action.pattern is None or action.beta > 0:
        return Shares(1.0, 1.0, 1.0)
    density = action.pattern.density
    backward = 1.0 if realisable and not transposable else density
    return Shares(density, backward, density if action.restricted else 1.0)


def training_flops(method: Method, phases: Phases, layers: Sequence[TrainedLayer], samples: int = 1) -> TrainingFlops:
    """FLOPs of `phases.total` steps of `samples` samples each."""
    totals = {False: 0.0, True: 0.0}
    for layer in layers:
        for step in range(phases.total):
            action = Action() if layer.pattern is None else method.at(step, phases, layer.pattern, layer.channels)
            for realisable in totals:
                totals[realisable] += 2.0 * layer.macs * samples * step_shares(action, realisable=realisable).total
    return TrainingFlops(totals[False], totals[True])


def equal_flops_steps(method: Method, phases: Phases, layers: Sequence[TrainedLayer], share: float = 1.0) -> int:
    """Steps for which a method's algorithmic FLOPs are `share` of a dense training's of `phases.total` steps.

    The phases keep their shares, so that the cost of a mean step is that of `phases`.
    """
    dense = 6.0 * sum(layer.macs for layer in layers) * phases.total
    mean = training_flops(method, phases, layers).algorithmic / phases.total
    return max(1, round(share * dense / mean))


def inference_macs(layers: Sequence[TrainedLayer]) -> float:
    """Multiply-accumulates of one forward pass that do not meet a pruned weight."""
    return sum(layer.macs * (1.0 if layer.pattern is None else layer.pattern.density) for layer in layers)
