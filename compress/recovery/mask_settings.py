"""MaskSettings: what decides how masks are trained, besides what decides any recovery training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitwright.foundation.errors import UsageError
from compress.sparsity.methods import METHODS
from compress.sparsity.schedules import Phases
from compress.sparsity.training import Restrict


@dataclass(frozen=True)
class MaskSettings:
    """`method`: a name of `METHODS`. `dense` and `fine_tune`: shares of the steps without a mask and under a fixed one.

    `period`: steps between refreshes of a moving mask. `freeze_v_at`: the step from which Adam's second moment stands,
    "auto": once its norm has settled. `rate`: Adam's for all float weights.
    """

    method: str = "mdgf_exponential"
    dense: float = 0.0
    fine_tune: float = 0.15
    restrict: Restrict = Restrict.GRAD
    period: int = 1
    freeze_v_at: int | Literal["auto"] | None = None
    rate: float = 1e-4

    def __post_init__(self) -> None:
        """UsageError names the first field out of range."""
        if self.method not in METHODS:
            raise UsageError(f"masks: {self.method!r} is not a method; there are {', '.join(METHODS)}")
        if self.dense < 0 or self.fine_tune < 0 or self.dense + self.fine_tune >= 1:
            raise UsageError(
                f"masks: shares of {self.dense:g} dense and {self.fine_tune:g} fixed leave no step to prune in"
            )
        if not 1 <= self.period <= 10:
            raise UsageError(f"masks: they are refreshed every 1 to 10 steps, not {self.period}")
        if self.rate <= 0:
            raise UsageError(f"masks: the rate must be above 0, not {self.rate:g}")

    def phases(self, total: int, first: int) -> Phases:
        """The phases of `total` steps, of which nothing is known before step `first`.

        UsageError where the shares leave no step to prune in.
        """
        return Phases(total, self.dense, self.fine_tune, first)
