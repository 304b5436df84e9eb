"""Training of masks: a dense float network becomes an N:M one by a method of sparse training; it teaches itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, fx

from compress.graph import tensor
from compress.nm_pattern import Sparsity
from compress.recovery.checkpoint import Position
from compress.recovery.losses import TaskLoss
from compress.recovery.mask_settings import MaskSettings
from compress.recovery.moving_masks import MovingMasks
from compress.recovery.schedule import PACE_STEPS
from compress.recovery.settings import RecoverySettings
from compress.recovery.trainer import UNKNOWN, OnLog, Score, Trainer
from compress.sparsity.captured import held, held_name, released
from compress.sparsity.diagnostics import Row
from compress.sparsity.layouts import WeightLayout
from compress.sparsity.methods import METHODS
from compress.sparsity.scores import input_norm
from compress.sparsity.training import Score as Worth
from compress.sparsity.training import SparseTraining
from compress.training.processes import Processes, processes
from compress.training.samples import Pairs

STATE = "masks.safetensors"
"""File of the training's state in its folder."""

Wanted = Mapping[str, tuple[Sparsity, WeightLayout]]
"""Weight name -> (its pattern, how it lies)."""


@dataclass(frozen=True)
class TrainedMasks:
    """The pruned network with the best held-out score (`after`; `before` is that of the start under its first masks).

    `rows`: diagnostics, of the weights by name.
    """

    graph: fx.GraphModule
    before: float
    after: float
    best_step: int
    steps: int
    seconds: float
    rows: tuple[Row, ...]


def train_masks(dense: fx.GraphModule, wanted: Wanted, norms: Mapping[str, Tensor], data: Pairs,
                settings: RecoverySettings, masks: MaskSettings, *, score: Score, task_loss: TaskLoss | None = None,
                folder: Path | None = None, on_log: OnLog | None = None,
                group: Processes | None = None, start: fx.GraphModule | None = None) -> TrainedMasks:  # fmt: skip
    """Train `dense` until its weights in `wanted` keep their patterns; the result never scores below its start.

    `start`: the network to train where it is not `dense`, which is the teacher then, such as one that keeps the
    patterns already and is to be trained under them. `norms`: L2 norm of each input channel, [C], by weight; what a
    weight is worth is its magnitude times that. `data`, `score`, `task_loss`, `folder` and processes as in `recover`.
    Scores are of networks under hard masks at all times.
    """
    path = None if folder is None else folder / STATE
    start = dense if start is None else start
    fingerprint = _fingerprint(start, wanted, settings, masks)

    def trained(group: Processes) -> tuple[fx.GraphModule, Position, tuple[Row, ...]]:
        student = held(start, wanted)
        # The total of a time budget is known only once the pace is.
        first = 0 if settings.steps is not None else PACE_STEPS
        training = SparseTraining(
            student, {held_name(name): pattern for name, (pattern, _) in wanted.items()}, METHODS[masks.method],
            masks.phases(settings.steps or UNKNOWN, first), period=masks.period, restrict=masks.restrict,
            score=_worth(wanted, norms, group.device),
        )  # fmt: skip
        moving = MovingMasks(training, masks, first)
        trainer = Trainer(student, dense, data, settings, group, score, task_loss, path, fingerprint, moving)
        position = trainer.run(on_log)
        moving.finish()
        names = {held_name(name): name for name in wanted}
        rows = tuple((step, names[layer], values) for step, layer, values in moving.log.rows)
        return released(start, student.to("cpu"), wanted), position, rows

    if group is not None:
        graph, position, rows = trained(group)
    else:
        with processes() as joined:
            graph, position, rows = trained(joined)
    return TrainedMasks(
        graph, position.before, position.best, position.best_step, position.step, position.seconds, rows
    )


def _worth(wanted: Wanted, norms: Mapping[str, Tensor], device: torch.device) -> Worth:
    by_layer = {held_name(name): (norms[name].to(device), layout) for name, (_, layout) in wanted.items()}

    def worth(layer: str, weight: Tensor) -> Tensor:
        found, layout = by_layer[layer]
        return input_norm(weight, found, layout)

    return worth


def _fingerprint(dense: fx.GraphModule, wanted: Wanted, settings: RecoverySettings, masks: MaskSettings) -> str:
    digest = hashlib.sha256(settings.fingerprint().encode())
    digest.update(json.dumps(asdict(masks), sort_keys=True).encode())
    for name, (pattern, _) in wanted.items():
        digest.update(f"{name} {pattern}".encode())
        digest.update(tensor(dense, name).detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
