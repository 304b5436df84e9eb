"""A training step as it is run: kernel by kernel, or on a GPU captured once as a CUDA graph and then replayed.

A step of a quantised network is thousands of small kernels, and launching them one by one takes a GPU several times as
long as running them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bitwright.foundation.progress import note
from compress.training.processes import Processes

FULL_RATE = "full_rate"
"""Key of a group of parameters: the rate that it starts with."""
EAGER_STEPS = 3
"""Steps before the capture: they allocate what the captured one will use."""
Compute = Callable[[Tensor, Tensor], Tensor]
"""Forward, backward and update on a batch, [N, ...] and its target; the loss, [], not waited for."""


class EagerStep:
    """`compute` behind gradients set to None."""

    def __init__(self, name: str, compute: Compute, optimizer: torch.optim.Optimizer) -> None:
        self.name, self.compute, self.optimizer = name, compute, optimizer

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """One step; the loss, []."""
        self.optimizer.zero_grad(set_to_none=True)
        return self.compute(x, target)


class ReplayedStep(EagerStep):
    """The same on one GPU: a few times kernel by kernel, then captured, then replayed.

    `compute` must read no value on the host and must change in place whatever the next step finds: what it reads from
    Python, such as a number, is frozen by the capture. Random numbers are not: the generator belongs to the graph, and
    a replay draws by the seed that is set before it.
    """

    def __init__(self, name: str, compute: Compute, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(name, compute, optimizer)
        self.taken = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """One step; the loss, []."""
        self.taken += 1
        if self.taken <= EAGER_STEPS:
            # On a stream of its own, as the capture will be.
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                loss = super().__call__(x, target)
            torch.cuda.current_stream().wait_stream(side)
            return loss
        if self.taken == EAGER_STEPS + 1:
            self._capture(x, target)
        if self.graph is None:
            return super().__call__(x, target)
        self._x.copy_(x)
        self._target.copy_(target)
        self.graph.replay()
        return self._loss.clone()

    def _capture(self, x: Tensor, target: Tensor) -> None:
        self._x, self._target = x.clone(), target.clone()
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._loss = self.compute(self._x, self._target)
        except RuntimeError as error:
            note(f"{self.name}: it cannot be captured and runs kernel by kernel ({str(error).splitlines()[0]})")
            return
        self.graph = graph


def replays(processes: Processes, wanted: bool) -> bool:
    """Whether steps are captured: on one GPU. Between processes, gradients are averaged outside of any graph."""
    return wanted and processes.size == 1 and processes.device.type == "cuda"


def stepped(name: str, compute: Compute, optimizer: torch.optim.Optimizer, *, replayed: bool) -> EagerStep:
    """`compute` as a step."""
    return (ReplayedStep if replayed else EagerStep)(name, compute, optimizer)


def adam(parameters: list[torch.nn.Parameter], rate: float, processes: Processes, *, fused: bool = True,
         weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999),
         scales: Sequence[torch.nn.Parameter] = (), scale_rate: float = 0.0) -> torch.optim.Adam:  # fmt: skip
    """Adam; on a GPU its rate and its count are on the device, so that a captured step follows them.

    `scales`: further parameters, with a rate of their own and without decay.
    """
    cuda = processes.device.type == "cuda"

    def group(members: Sequence[torch.nn.Parameter], first: float, decay: float) -> dict[str, Any]:
        lr = torch.tensor(first, device=processes.device) if cuda else first
        return {"params": list(members), "lr": lr, "weight_decay": decay, FULL_RATE: first}

    groups = [group(parameters, rate, weight_decay)]
    if scales:
        groups.append(group(scales, scale_rate, 0.0))
    return torch.optim.Adam(groups, betas=betas, fused=fused or cuda, capturable=cuda)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all groups, in place where it is a tensor."""
    for group in optimizer.param_groups:
        _set(group, rate)


def set_share(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set the rate of each group of `adam` to a share of its first one, in place where it is a tensor."""
    for group in optimizer.param_groups:
        _set(group, share * group[FULL_RATE])


def _set(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
