"""StepAdam: AdamW whose steps can be scaled for each weight, and whose second moment can be frozen.

Adam divides slow changes of the gradient's scale out again, so that a restricted gradient alone leaves the steps of
pruned weights at full size; `shares` scales the steps themselves. Freezing v is the remedy of STEP (arXiv 2302.01172)
for second moments that were learned while weights were switched on and off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError

BETAS = 0.9, 0.999
"""Adam's usual averaging factors."""


def averaging_steps(second: float) -> int:
    """Steps that v averages, and those between two looks at its norm."""
    return max(1, round(1 / (1 - second)))


class StepAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay. All state is in `state_dict`.

    `freeze_v_at`: the step from which v stands; "auto": when |v|_1 changes by less than `threshold` over the 1 /
    (1 - beta2) steps that v averages, and so not within the first two such times. `shares`: factors of the weight's
    shape on the steps of some parameters; weight decay is not scaled.
    """

    def __init__(self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float = 1e-3,
                 betas: tuple[float, float] = BETAS, eps: float = 1e-8, weight_decay: float = 1e-2,
                 freeze_v_at: int | Literal["auto"] | None = None, threshold: float = 0.05) -> None:  # fmt: skip
        if lr < 0 or eps <= 0 or weight_decay < 0 or not all(0 <= b < 1 for b in betas):
            raise UsageError("StepAdam needs lr and weight_decay of at least 0, eps above 0 and betas in [0, 1)")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "freeze_v_at": freeze_v_at,
                    "threshold": threshold, "taken": 0, "frozen": False, "v_norm": None}  # fmt: skip
        super().__init__(parameters, defaults)
        self.shares: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; a closure is not supported."""
        if closure is not None:
            raise UsageError("StepAdam takes no closure")
        for group in self.param_groups:
            if group["freeze_v_at"] not in (None, "auto") and group["taken"] >= group["freeze_v_at"]:
                group["frozen"] = True
            group["taken"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
            if group["freeze_v_at"] == "auto" and not group["frozen"]:
                self._watch(group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = state["v_steps"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first, second = group["betas"]
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - first)
        if not group["frozen"] or state["v_steps"] == 0:
            state["v_steps"] += 1
            state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        spread = (state["exp_avg_sq"].sqrt() / math.sqrt(1 - second ** state["v_steps"])).add_(group["eps"])
        move = state["exp_avg"] / spread * (group["lr"] / (1 - first ** state["step"]))
        if parameter in self.shares:
            move *= self.shares[parameter]
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(move)

    def _watch(self, group: dict[str, Any]) -> None:
        """Freeze v once its norm has settled; looked at once per averaging time of v."""
        if group["taken"] % averaging_steps(group["betas"][1]):
            return
        moments = [self.state[p]["exp_avg_sq"] for p in group["params"] if self.state[p]]
        norm = sum(float(v.double().sum()) for v in moments)
        before = group["v_norm"]
        group["v_norm"] = norm
        group["frozen"] = before is not None and abs(norm - before) <= group["threshold"] * max(before, 1e-300)
