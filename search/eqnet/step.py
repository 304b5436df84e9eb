"""One step of a supernet: the regulariser, then H, every R and L, each backward by itself, gradients added up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from search.eqnet.guidance import Guidance, Lesson, Outputs
from search.eqnet.sampling import Drawn
from search.eqnet.supernet import Supernet

Run = Callable[[Tensor], Outputs]


def losses(
    supernet: Supernet, run: Run, guidance: Guidance, drawn: Sequence[Drawn], x: Tensor, target: Tensor,
    backward: Callable[[Tensor], None], *, amp: bool = False, first: Lesson | None = None, every: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """The loss of each pass, without gradient, handed to `backward` one by one so that one graph is alive at a time.

    H learns from the target, and from `first` where there is one; every R from the target and from H; L from the target
    and from the R's mean, never from H. With `every` all of them learn from the target and from `first`.
    """
    found: dict[str, Tensor] = {}
    lesson = first
    group: list[Outputs] = []
    for number, one in enumerate(drawn):
        last = number == len(drawn) - 1
        if last and len(drawn) > 2:
            lesson = guidance.teach(group)
        supernet.choose(one.configuration)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
            outputs = run(x)
        loss = guidance.loss(outputs, target, first if every else lesson)
        backward(loss)
        name = "H" if number == 0 else "L" if last else f"R{number}"
        found[name] = loss.detach()
        if number == 0:
            lesson = guidance.teach([outputs])
        else:
            group.append(tuple(value.detach() for value in outputs))
    return found
