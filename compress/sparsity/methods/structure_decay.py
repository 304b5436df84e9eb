"""Structure-decay gradient flow (SdGf, arXiv 2402.04744): binary masks whose pattern tightens in frames."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action
from compress.sparsity.methods.method import Method
from compress.sparsity.schedules import frame_at, geometric, stepwise


class Frames(StrEnum):
    """What tightens."""

    STEPWISE = "stepwise"
    """N falls by halves in groups of one length."""
    GEOMETRIC = "geometric"
    """Groups shrink at one density."""


@dataclass(frozen=True)
class StructureDecay(Method):
    """`restricted`: pruned weights get no gradient; False: the whole gradient, as the authors' code does.

    `factor`: how many times longer the first groups are, for geometric frames.
    """

    name: ClassVar[str] = "sdgf"
    frames: Frames = Frames.STEPWISE
    restricted: bool = False
    factor: int = 8
    freezes: bool = True

    def decaying(self, u: float, target: Sparsity, channels: int) -> Action:
        """The hard mask of the present frame."""
        return Action(frame_at(u, self._frames(target, channels)), restricted=self.restricted)

    def _frames(self, target: Sparsity, channels: int) -> tuple[Sparsity, ...]:
        if self.frames is Frames.STEPWISE:
            return stepwise(target)
        return geometric(target, channels, self.factor)
