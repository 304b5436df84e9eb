"""Dense training: no mask at any step; the reference of the others."""

from __future__ import annotations

from typing import ClassVar

from compress.nm_pattern import Sparsity
from compress.sparsity.action import DENSE, Action
from compress.sparsity.methods.method import Method
from compress.sparsity.schedules import Phases


class Dense(Method):
    """W is trained as it is."""

    name: ClassVar[str] = "dense"
    prunes: ClassVar[bool] = False
    freezes = False

    def decaying(self, u: float, target: Sparsity, channels: int) -> Action:
        """No mask."""
        return DENSE

    def frozen_from(self, phases: Phases) -> int | None:
        """Never."""
        return None
