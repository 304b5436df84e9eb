"""SR-STE (arXiv 2102.04010): straight-through training that pulls pruned weights to zero, which settles the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action
from compress.sparsity.methods.method import Method


@dataclass(frozen=True)
class SparseRefined(Method):
    """The term pull (1 - m) * W is added to the gradient: not to the loss, and not to the weight decay."""

    name: ClassVar[str] = "sr_ste"
    pull: float = 2e-4
    freezes: bool = False

    def decaying(self, u: float, target: Sparsity, channels: int) -> Action:
        """The target's mask, the whole gradient and the pull."""
        return Action(target, pull=self.pull)
