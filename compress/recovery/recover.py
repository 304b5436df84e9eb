"""Recovery training: what rounding lost is learned back, with the float network as the teacher."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx

from compress.compressed import CompressedModel
from compress.recovery.checkpoint import Position
from compress.recovery.losses import TaskLoss
from compress.recovery.settings import RecoverySettings
from compress.recovery.student import freeze, student_of
from compress.recovery.trainer import OnLog, Score, Trainer
from compress.training.processes import Processes, processes
from compress.training.samples import Pairs

STATE = "recovery.safetensors"
"""File of the training's state in its folder."""


@dataclass(frozen=True)
class Recovered:
    """The model with the best held-out score (`after`; `before` is that of the start) and how it was found.

    `history`: (step, mean training loss since the last entry, held-out score or None).
    """

    model: CompressedModel
    before: float
    after: float
    best_step: int
    steps: int
    seconds: float
    history: tuple[tuple[int, float, float | None], ...]


def recover(model: CompressedModel, teacher: fx.GraphModule, data: Pairs, settings: RecoverySettings, *,
            score: Score, task_loss: TaskLoss | None = None, folder: Path | None = None,
            on_log: OnLog | None = None, group: Processes | None = None,
            real: fx.GraphModule | None = None) -> Recovered:  # fmt: skip
    """Quantisation-aware training of `model` against `teacher`; the result never scores below the start.

    `teacher`: the float graph that `model` was quantised from (same nodes). `real`: the float graph with the weights
    behind the integers, where that is another one: the pruned network, whose zeros stay, beside its dense teacher.
    `data`: item i is (input [C, H, W], target), a pure function of i. `score` of a network, higher is better, is asked
    for on held-out samples. `task_loss` is needed only where `settings.truth_weight` is set. With a `folder` the state
    is saved there, and a state found there is continued to the result that the uninterrupted training would have had.
    Runs in every process that `torchrun` started; each returns the same model. `model` is not changed.
    """
    model.plan.require_integers("recovery training")
    fingerprint = _fingerprint(model, settings)
    path = None if folder is None else folder / STATE

    def trained(group: Processes) -> tuple[fx.GraphModule, Position]:
        student = student_of(model, teacher if real is None else real)
        trainer = Trainer(student, teacher, data, settings, group, score, task_loss, path, fingerprint)
        position = trainer.run(on_log)
        return student.to("cpu"), position

    if group is not None:
        student, position = trained(group)
    else:
        with processes() as joined:
            student, position = trained(joined)
    result = model if position.best_step == 0 else freeze(model, student)
    return Recovered(
        result, position.before, position.best, position.best_step, position.step, position.seconds,
        tuple(position.history),
    )  # fmt: skip


def _fingerprint(model: CompressedModel, settings: RecoverySettings) -> str:
    digest = hashlib.sha256(settings.fingerprint().encode())
    digest.update(model.plan.model_dump_json().encode())
    values: list[Tensor] = [w.integers for w in model.weights.values()]
    values += [p.scale for p in model.activations.values()]
    for value in values:
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
