"""Straight-through training: the forward weight is masked, the gradient reaches all weights, the mask keeps moving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action
from compress.sparsity.methods.method import Method


@dataclass(frozen=True)
class StraightThrough(Method):
    """STE. `freezes`: with the fixed mask of the last phase, as the decay methods have it."""

    name: ClassVar[str] = "ste"
    freezes: bool = False

    def decaying(self, u: float, target: Sparsity, channels: int) -> Action:
        """The target's mask with the whole gradient."""
        return Action(target)
