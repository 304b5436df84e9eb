"""Mask-decay gradient flow (MdGf, arXiv 2402.04744): a pruned weight keeps a shrinking share beta of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action
from compress.sparsity.methods.method import Method
from compress.sparsity.schedules import ExponentialDecay


@dataclass(frozen=True)
class MaskDecay(Method):
    """`restricted`: of its gradient too, as the paper tells it; False: as the authors' code does, the whole gradient.

    The two behave differently: with beta = 0 the first trains under masked gradients, the second is plain STE.
    """

    name: ClassVar[str] = "mdgf"
    decay: Callable[[float], float] = field(default_factory=ExponentialDecay)
    restricted: bool = True
    freezes: bool = True

    def decaying(self, u: float, target: Sparsity, channels: int) -> Action:
        """The target's mask, softened by beta(u)."""
        return Action(target, beta=self.decay(u), restricted=self.restricted)
