"""Method: the interface of all ways to train under N:M. A new one is one file and a row in the contract test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from compress.nm_pattern import Sparsity
from compress.sparsity.action import DENSE, Action, fixed
from compress.sparsity.schedules import Phase, Phases


class Method(ABC):
    """A pure function from the position in the training to an action; it keeps no state."""

    name: ClassVar[str]
    prunes: ClassVar[bool] = True
    """Whether there is a mask in the end; also where the training ends in its dense phase."""
    freezes: bool = True
    """Whether the mask is fixed at S1; False: as published for STE and SR-STE, the mask moves to the last step."""

    @abstractmethod
    def decaying(self, u: float, target: Sparsity, channels: int) -> Action:
        """The action at u in [0, 1] of the decay; `channels`: of the layer's reduction axis."""

    def frozen_from(self, phases: Phases) -> int | None:
        """The step at which the mask is computed for the last time; None: it always moves."""
        return phases.end if self.freezes else None

    def at(self, step: int, phases: Phases, target: Sparsity, channels: int) -> Action:
        """The action of a layer at a global step."""
        if phases.phase(step) is Phase.DENSE:
            return DENSE
        frozen = self.frozen_from(phases)
        if frozen is not None and step >= frozen:
            return fixed(target)
        return self.decaying(phases.progress(step), target, channels)
