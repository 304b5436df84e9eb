"""Any method with the pull of SR-STE on top: MdGf and SdGf combine with it freely."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from compress.nm_pattern import Sparsity
from compress.sparsity.action import Action
from compress.sparsity.methods.method import Method
from compress.sparsity.schedules import Phases


@dataclass(frozen=True)
class Pulled(Method):
    """`inner` with the term pull (1 - m) * W added to the gradient wherever its mask moves."""

    name: ClassVar[str] = "pulled"
    inner: Method
    pull: float = 2e-4

    def decaying(self, u: float, target: Sparsity, channels: int) -> Action:
        """The inner method's action with the pull."""
        action = self.inner.decaying(u, target, channels)
        return action if action.pattern is None or action.frozen else replace(action, pull=action.pull + self.pull)

    def frozen_from(self, phases: Phases) -> int | None:
        """Where the inner method freezes."""
        return self.inner.frozen_from(phases)
