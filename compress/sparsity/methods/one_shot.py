"""One-shot pruning (ASP): the dense warm-up is the training, then one mask is taken and everything trained under it."""

from __future__ import annotations

from typing import ClassVar

from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action, fixed
from compress.sparsity.methods.method import Method
from compress.sparsity.schedules import Phases


class OneShot(Method):
    """The mask of the weights at S0, fixed from there on."""

    name: ClassVar[str] = "one_shot"

    def decaying(self, u: float, target: Sparsity, channels: int) -> Action:
        """Under the fixed mask: there is no decay."""
        return fixed(target)

    def frozen_from(self, phases: Phases) -> int | None:
        """The end of the dense phase."""
        return phases.start
