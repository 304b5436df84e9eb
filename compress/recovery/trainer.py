"""The training loop: one state that can be saved after any step and continued to the same result."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, fx

from bitwright.foundation.progress import note
from compress.graph import clone
from compress.recovery import checkpoint
from compress.recovery.checkpoint import Position, Values
from compress.recovery.losses import RecoveryLoss, TaskLoss
from compress.recovery.moving_masks import MASK_GROUPS, MovingMasks
from compress.recovery.schedule import PACE_STEPS, SKIPPED, affordable_steps
from compress.recovery.settings import RecoverySettings
from compress.recovery.step import Networks, Step
from compress.recovery.student import tap_names, tapped
from compress.training.processes import Processes
from compress.training.samples import Pairs, batches
from compress.training.state import MOMENTS
from workloads.workload import Predict

Score = Callable[[Predict], float]
"""Quality of a network that takes and returns tensors on the CPU."""
OnLog = Callable[[Position], None]

UNKNOWN = 10**9
"""Steps in all while a time budget has not become a number of steps yet."""
SPREAD_SAMPLES = 8
"""First samples of the data that the variances in the loss are taken from."""


class Trainer:
    """Trains `student` in place. `score` (higher is better) is taken of the averaged values, which are also kept."""

    def __init__(self, student: fx.GraphModule, teacher: fx.GraphModule, data: Pairs, settings: RecoverySettings,
                 processes: Processes, score: Score, task_loss: TaskLoss | None, path: Path | None,
                 fingerprint: str, masks: MovingMasks | None = None) -> None:  # fmt: skip
        self.settings, self.processes, self.data, self.path = settings, processes, data, path
        self.device, self.score, self.masks = processes.device, score, masks
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.layout = layout
        self.student = student.to(self.device)
        names = tap_names(teacher, settings.layers_per_tap) if settings.feature_weight else ()
        # A copy: to another device, a module moves the tensors that it shares.
        self.teacher = tapped(clone(teacher), names).to(self.device)
        network = tapped(self.student, names)
        self.free = {n: p for n, p in self.student.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.free.items()}
        self.best = {n: p.detach().clone() for n, p in self.free.items()}
        self.past = {n: p.detach().clone() for n, p in self.free.items()} if settings.self_distillation else {}
        loss = RecoveryLoss(settings, self._spreads(), task_loss)
        networks = Networks(self.student, network, self.teacher)
        self.step = Step(networks, loss, settings, self.free, self.average, self.past, processes, masks)
        self.position = Position(fingerprint, total=settings.steps or 0)

    def run(self, on_log: OnLog | None = None) -> Position:
        """Train to the end, from the saved state if there is one; `student` ends at the best values seen."""
        position, settings = self.position, self.settings
        if self.path is not None and self.path.is_file():
            position = self._restore(self.path)
        else:
            position.before = position.best = self._checked()[0]
        resumed, began, saved = position.seconds, time.monotonic(), time.monotonic()
        losses: list[Tensor] = []
        pace_from = began
        for images, targets in batches(self.data, settings.batch, self.processes, position.step, settings.workers):
            if position.total and position.step >= position.total:
                break
            losses.append(self._step(images, targets))
            position.step += 1
            position.seconds = resumed + time.monotonic() - began
            if position.step == SKIPPED:
                pace_from = time.monotonic()
            if not position.total and position.step >= PACE_STEPS:
                position.total = self._affordable((time.monotonic() - pace_from) / (PACE_STEPS - SKIPPED))
            checked = self._check_if_due()
            if position.step % settings.log_every == 0 or checked is not None:
                mean = self.processes.mean(torch.stack(losses).mean())
                losses.clear()
                position.history.append((position.step, mean, checked))
                self._tell(mean, checked)
                if on_log is not None:
                    on_log(position)
                late = self.processes.from_first(float(time.monotonic() - saved >= settings.save_seconds))
                if late or position.step == position.total:
                    self._save()
                    saved = time.monotonic()
        self._put(self.best)
        return position

    def _step(self, images: Tensor, targets: Tensor) -> Tensor:
        """One optimiser step; the loss of this process's share, not synchronised with the device."""
        position = self.position
        images = images.to(self.device, memory_format=self.layout, non_blocking=True)
        targets = targets.to(self.device, non_blocking=True)
        return self.step(images, targets, position.step, position.total or UNKNOWN)

    def _check_if_due(self) -> float | None:
        """Score the averaged values at regular steps and at the end, and keep them if they are the best so far."""
        position = self.position
        if not position.total:
            return None
        every = max(1, -(-position.total // self.settings.checks))
        if position.step % every and position.step != position.total:
            return None
        kept = {n: p.detach().clone() for n, p in self.free.items()}
        self._put(self.average)
        score, values = self._checked()
        self._put(kept)
        if score > position.best:
            position.best, position.best_step = score, position.step
            self.best = values
        if self.past:
            _copy(self.average, self.past)
        return score

    def _checked(self) -> tuple[float, Values]:
        """The score of the present values, and what would be exported of them: under hard masks where they move."""
        with nullcontext() if self.masks is None else self.masks.training.hard_masked():
            score = self._score()
            values = {n: p.detach().clone() for n, p in self.free.items()}
            if self.masks is not None:
                self.masks.harden(values)
        return score, values

    def _score(self) -> float:
        value = 0.0
        if self.processes.first:
            with torch.no_grad():
                value = self.score(lambda x: self.student(x.to(self.device)).cpu())
        return self.processes.from_first(value)

    def _spreads(self) -> list[Tensor]:
        images = torch.stack([self.data[i][0] for i in range(SPREAD_SAMPLES)]).to(self.device)
        with torch.no_grad():
            return [t.double().var().float().clamp_min(1e-20) for t in self.teacher(images)]

    def _affordable(self, per_step: float) -> int:
        assert self.settings.minutes is not None
        left = self.settings.minutes * 60 - self.position.seconds
        return int(self.processes.from_first(affordable_steps(left, per_step, self.position.step)))

    def _put(self, values: Values) -> None:
        with torch.no_grad():
            for name, parameter in self.free.items():
                parameter.copy_(values[name])

    def _tell(self, loss: float, checked: float | None) -> None:
        position = self.position
        if not self.processes.first:
            return
        left = position.seconds / position.step * max(0, position.total - position.step) / 60
        found = "" if checked is None else f"  held out {checked:.4f} (start {position.before:.4f})"
        note(f"recovery: step {position.step}/{position.total or '?'}  loss {loss:.4g}  {left:.1f} min left{found}")

    def _save(self) -> None:
        if self.path is None or not self.processes.first:
            return
        values = {n: p.detach() for n, p in self.free.items()}
        groups = {"value": values, "average": self.average, "best": self.best, "past": self.past}
        moments = {m: {n: self.step.optimizer.state[p][m] for n, p in self.free.items()} for m in MOMENTS}
        if self.masks is not None:
            groups |= self.masks.tensors()
            self.position.masks = self.masks.described(self.step.optimizer)
        checkpoint.save(self.path, self.position, groups | moments)

    def _restore(self, path: Path) -> Position:
        self.position, groups = checkpoint.load(path, self.position.fingerprint)
        # In the order of `free`: the file has its own.
        of_masks = {g: groups.pop(g) for g in MASK_GROUPS if g in groups}
        on_device = {g: {n: values[n].to(self.device) for n in self.free} for g, values in groups.items()}
        self._put(on_device["value"])
        self.best = on_device["best"]
        _copy(on_device["average"], self.average)
        _copy(on_device.get("past", {}), self.past)
        for name, parameter in self.free.items():
            steps = torch.tensor(float(self.position.step), device=self.device)
            self.step.optimizer.state[parameter] = {"step": steps} | {m: on_device[m][name] for m in MOMENTS}
        if self.masks is not None:
            self.masks.restore(self.step.optimizer, of_masks, self.position.masks)
        note(f"recovery: continuing at step {self.position.step}")
        return self.position


def _copy(source: Values, target: Values) -> None:
    with torch.no_grad():
        for name, value in source.items():
            target[name].copy_(value)
