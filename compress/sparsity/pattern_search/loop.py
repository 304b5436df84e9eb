"""The loop that a search for patterns is run in: the network trains on its task until the budget is kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note
from compress.graph import tensor
from compress.nm_pattern import Sparsity
from compress.sparsity.captured import held, held_name
from compress.sparsity.masks import Scored, keep_largest
from compress.sparsity.pattern_search.base import PatternSearch, Searched
from compress.sparsity.pattern_search.domino import Domino
from compress.sparsity.pattern_search.learned import Learned
from compress.training.processes import Processes
from compress.training.samples import Pairs, batches
from compress.training.state import Position, load_state, moments, restore_moments, save_state

TaskLoss = Callable[[Tensor, Tensor], Tensor]
KINDS: dict[str, type[PatternSearch]] = {"domino": Domino, "sls": Learned}
LOG_EVERY = 20


@dataclass(frozen=True)
class SearchSettings:
    """`kind`: of `KINDS`. `budget`: the cost that is aimed at, as a share of the dense cost. `steps`: at most."""

    kind: str
    budget: float = 0.5
    steps: int = 400
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """UsageError names the first field out of range."""
        if self.kind not in KINDS:
            raise UsageError(f"a search for patterns is one of {', '.join(KINDS)}, not {self.kind!r}")
        if not 0 < self.budget < 1 or self.steps < 1 or self.batch < 1:
            raise UsageError("a search for patterns needs a budget in (0, 1), and steps and a batch of at least 1")


@dataclass(frozen=True)
class Found:
    """Patterns by weight (N = M: dense) and their cost. `trimmed`: weights that were cut further by magnitude, because
    the steps were over before the budget was kept."""  # fmt: skip

    patterns: dict[str, Sparsity]
    cost: float
    steps: int
    seconds: float
    trimmed: tuple[str, ...]


def search_patterns(dense: fx.GraphModule, searched: Mapping[str, Searched], data: Pairs, task_loss: TaskLoss,
                    settings: SearchSettings, group: Processes, *, path: Path | None = None) -> Found:  # fmt: skip
    """Search N of the weights in `searched` on a copy of `dense`, which keeps its values.

    `data`: pairs of an input [C, H, W] and what `task_loss` compares the output with. `path`: file of the state, from
    which a search that was stopped goes on to the same result.
    """
    wanted = {name: (Sparsity(n=one.m, m=one.m), one.layout) for name, one in searched.items()}
    student = held(dense, wanted).to(group.device)
    modules = {name: student.get_submodule(held_name(name)) for name in searched}
    search = KINDS[settings.kind](modules, searched, settings.budget)
    named = {n: p for n, p in student.named_parameters() if p.requires_grad}
    optimizer = search.optimizer(list(named.values()))
    position = Position(_fingerprint(dense, searched, settings))
    if path is not None and path.is_file():
        position = _restored(path, position.fingerprint, named, optimizer, search, group)
    began, before = time.monotonic(), position.seconds
    samples = batches(data, settings.batch, group, position.step, 0)
    while position.step < settings.steps and not search.done:
        loss = _step(student, search, optimizer, samples, task_loss, position.step, settings.steps, group)
        position.step += 1
        position.seconds = before + time.monotonic() - began
        if position.step % LOG_EVERY == 0 or position.step == settings.steps:
            note(f"{settings.kind}: step {position.step}/{settings.steps}  loss {group.mean(loss):.4g}  "
                 f"cost {search.cost:.3f} of dense, {settings.budget:g} wanted")  # fmt: skip
            if path is not None and group.first:
                _save(path, position, named, optimizer, search)
    kept, trimmed = _trimmed(dense, search)
    patterns = {name: Sparsity(n=n, m=searched[name].m) for name, n in kept.items()}
    cost = sum(searched[name].share * pattern.density for name, pattern in patterns.items())
    return Found(patterns, cost, position.step, position.seconds, trimmed)


def _step(student: nn.Module, search: PatternSearch, optimizer: torch.optim.Optimizer,
          samples: Iterator[tuple[Tensor, Tensor]], task_loss: TaskLoss, step: int, total: int,
          group: Processes) -> Tensor:  # fmt: skip
    inputs, targets = (part.to(group.device) for part in next(samples))
    search.begin(step, total)
    optimizer.zero_grad(set_to_none=True)
    loss = task_loss(student(inputs), targets)
    (loss + search.penalty(loss)).backward()  # type: ignore[no-untyped-call]
    group.average_gradients([p for g in optimizer.param_groups for p in g["params"]])
    search.after_backward(step)
    optimizer.step()
    return loss.detach()


def _trimmed(dense: fx.GraphModule, search: PatternSearch) -> tuple[dict[str, int], tuple[str, ...]]:
    """Halve N where that loses the least squared magnitude for the cost it saves, until the budget is kept."""
    kept = search.kept()
    cut: set[str] = set()
    squares = {n: Scored(tensor(dense, n).detach().square(), s.layout).grouped(s.m) for n, s in search.searched.items()}
    totals = {name: float(values.sum()) for name, values in squares.items()}

    def lost(name: str, n: int) -> float:
        values = squares[name]
        return 1.0 - float((values * keep_largest(values, n)).sum()) / max(totals[name], 1e-30)

    def cost() -> float:
        return sum(search.searched[name].share * n / search.searched[name].m for name, n in kept.items())

    while cost() > search.budget:
        prices = {}
        for name, n in kept.items():
            if n > 1:
                saved = search.searched[name].share * (n - n // 2) / search.searched[name].m
                prices[name] = (lost(name, n // 2) - lost(name, n)) / saved
        if not prices:
            break
        name = min(prices, key=lambda one: prices[one])
        kept[name] //= 2
        cut.add(name)
    return kept, tuple(name for name in kept if name in cut)


def _save(path: Path, position: Position, named: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer,
          search: PatternSearch) -> None:  # fmt: skip
    values = {name: parameter.detach() for name, parameter in named.items()}
    save_state(path, position, {"value": values, "search": search.tensors(), **moments(optimizer, named, "")})


def _restored(path: Path, fingerprint: str, named: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer,
              search: PatternSearch, group: Processes) -> Position:  # fmt: skip
    position, groups = load_state(path, fingerprint)
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(groups["value"][name].to(group.device))
    restore_moments(optimizer, named, "", groups)
    search.restore(groups["search"])
    note(f"continuing at step {position.step}")
    return position


def _fingerprint(dense: fx.GraphModule, searched: Mapping[str, Searched], settings: SearchSettings) -> str:
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for name, one in searched.items():
        digest.update(f"{name} {one.m} {one.share:.6g}".encode())
        digest.update(tensor(dense, name).detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
