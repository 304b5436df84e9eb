"""Trains the free values of one block to match the float network's outputs, and keeps the best held-out state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import track
from compress.soft_rounding import IntegerBias, LearnedQuantizer, RoundedWeight

State = dict[str, Tensor]
"""Everything that a block needs to go on from a step: step, values, moments and the best values. Fits safetensors."""


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast the free values move. Rates: Adam steps in integers, log-scale and noise units."""

    iterations: int
    batch: int
    checks: int
    weight_rate: float
    scale_rate: float
    zero_rate: float
    bias_rate: float
    seed: int


@dataclass(frozen=True)
class BlockData:
    """What enters a block (from the quantised part before it) and what the float network lets out of it: [N, ...]."""

    inputs: list[Tensor]
    targets: list[Tensor]

    def take(self, index: Tensor) -> BlockData:
        """Some of the samples."""
        return BlockData([x[index] for x in self.inputs], [t[index] for t in self.targets])

    def slice(self, start: int, end: int) -> BlockData:
        """The samples start ... end - 1, as views."""
        return BlockData([x[start:end] for x in self.inputs], [t[start:end] for t in self.targets])

    def __len__(self) -> int:
        return len(self.targets[0])


def free_parameters(block: fx.GraphModule, done: set[int]) -> dict[str, nn.Parameter]:
    """The block's trainable values by qualified name; `done` are ids of those that an earlier block has settled."""
    used = [n.target for n in block.graph.nodes if n.op == "call_module"]
    found: dict[str, nn.Parameter] = {}
    seen = set(done)
    for name in dict.fromkeys(map(str, used)):
        module = block.get_submodule(name)
        if isinstance(module, (RoundedWeight, LearnedQuantizer, IntegerBias)):
            for leaf, parameter in module.named_parameters():
                if parameter.requires_grad and id(parameter) not in seen:
                    found[f"{name}.{leaf}"] = parameter
                    seen.add(id(parameter))
    return found


def block_loss(block: fx.GraphModule, data: BlockData, spread: list[Tensor]) -> Tensor:
    """Sum over the outputs of mean squared error over the output's variance."""
    outputs = block(*data.inputs)
    losses = [torch.mean((y - t) ** 2) / s for y, t, s in zip(outputs, data.targets, spread, strict=True)]
    return torch.stack(losses).sum()


def train_block(block: fx.GraphModule, parameters: dict[str, nn.Parameter], train: BlockData, held: BlockData,
                settings: TrainingSettings, name: str, resume: State | None,
                on_state: Callable[[State], None]) -> tuple[float, float]:  # fmt: skip
    """Move `parameters` so that `block` maps inputs to targets; they end at the best state seen on `held`.

    Deterministic in `settings.seed`; going on from a `resume` state that `on_state` received ends in the same values.
    Returns the held-out loss before and after. Raises UsageError if `resume` belongs to another block.
    """
    spread = [t.double().var().float().clamp_min(1e-20) for t in held.targets]
    optimizer = torch.optim.Adam(_groups(parameters, settings), eps=1e-15)
    step, before, best_loss, best = _restore(parameters, optimizer, resume, name)
    if resume is None:
        before = best_loss = held_loss(block, held, spread, settings.batch)
        best = {n: p.detach().clone() for n, p in parameters.items()}
    rates = [float(g["lr"]) for g in _groups(parameters, settings)]
    every = max(1, math.ceil(settings.iterations / settings.checks))
    for _ in track(range(step, settings.iterations), f"reconstructing {name}"):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        index = torch.randint(len(train), (settings.batch,), generator=generator)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / settings.iterations))
        optimizer.zero_grad(set_to_none=False)
        torch.autograd.backward(block_loss(block, train.take(index), spread))
        optimizer.step()
        step += 1
        if step % every == 0 or step == settings.iterations:
            loss = held_loss(block, held, spread, settings.batch)
            if loss < best_loss:
                best_loss, best = loss, {n: p.detach().clone() for n, p in parameters.items()}
            on_state(_state(parameters, optimizer, step, before, best_loss, best))
    with torch.no_grad():
        for n, p in parameters.items():
            p.copy_(best[n])
    return before, best_loss


def held_loss(block: fx.GraphModule, data: BlockData, spread: list[Tensor], batch: int) -> float:
    """`block_loss` over all of `data`, in batches."""
    with torch.no_grad():
        parts = [(len(i), float(block_loss(block, data.take(i), spread))) for i in batches(len(data), batch)]
    return sum(n * loss for n, loss in parts) / len(data)


def _groups(parameters: dict[str, nn.Parameter], settings: TrainingSettings) -> list[dict[str, Any]]:
    rates = {
        "latent": settings.weight_rate, "log_factor": settings.scale_rate,
        "zero_point": settings.zero_rate, "offset": settings.bias_rate,
    }  # fmt: skip
    return [{"params": [p], "lr": rates[name.rpartition(".")[2]]} for name, p in parameters.items()]


MOMENTS = ("exp_avg", "exp_avg_sq")


def _state(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Adam, step: int, before: float,
           best_loss: float, best: dict[str, Tensor]) -> State:  # fmt: skip
    state = {"step": torch.tensor(step), "loss": torch.tensor([before, best_loss], dtype=torch.float64)}
    for name, p in parameters.items():
        state[f"value/{name}"] = p.detach().clone()
        state[f"best/{name}"] = best[name].clone()
        for moment in MOMENTS:
            state[f"{moment}/{name}"] = optimizer.state[p][moment].clone()
    return state


def _restore(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Adam, state: State | None,
             name: str) -> tuple[int, float, float, dict[str, Tensor]]:  # fmt: skip
    if state is None:
        return 0, 0.0, 0.0, {}
    wanted = {f"{kind}/{n}": p.shape for kind in ("value", "best", *MOMENTS) for n, p in parameters.items()}
    if any(key not in state or state[key].shape != shape for key, shape in wanted.items()):
        raise UsageError(f"the saved state of block {name} belongs to another model or plan; delete it and start again")
    for n, p in parameters.items():
        with torch.no_grad():
            p.copy_(state[f"value/{n}"])
        moments = {m: state[f"{m}/{n}"].clone() for m in MOMENTS}
        optimizer.state[p] = {"step": state["step"].to(torch.float32), **moments}
    best = {n: state[f"best/{n}"].clone() for n in parameters}
    before, best_loss = state["loss"].tolist()
    return int(state["step"]), before, best_loss, best


def batches(count: int, size: int) -> Iterator[Tensor]:
    """Indices 0 ... count - 1 in runs of `size`."""
    for start in range(0, count, size):
        yield torch.arange(start, min(start + size, count))
