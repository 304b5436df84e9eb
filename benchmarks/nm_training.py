"""One training of the N:M comparison, a pure function of its recipe and its arm; the same loop for every recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.nm_recipe import Rates, Recipe, Schedule
from benchmarks.nm_sls import SEARCH_SHARE, SLS, searched_patterns
from compress.nm_pattern import Sparsity
from compress.sparsity import METHODS, Method, Phases, SparseTraining
from compress.sparsity.cost import equal_flops_steps, training_flops
from compress.sparsity.diagnostics import DiagnosticsLog, Noise, gradient_noise
from compress.training.replay import set_rate

NO_PATTERN = Sparsity(n=4, m=4)
"""What a dense training has in place of a pattern."""
FIGURES = ("g_var", "v_var", "update_pruned", "pruned_energy", "flip_rate", "reentry_rate", "retained")
"""What of the diagnostics is written down."""


@dataclass(frozen=True)
class Arm:
    """One training. `pattern`: N:M, or `dense`. `flops`: as many steps as a dense training of `steps` steps pays for;
    False: `steps` steps.
    """  # fmt: skip

    method: str
    pattern: str
    seed: int
    flops: bool
    steps: int

    @property
    def budget(self) -> str:
        """What is equal among the arms that it is compared with."""
        return "flops" if self.flops else "steps"

    @property
    def name(self) -> str:
        """The arm as a file name."""
        return f"{self.pattern.replace(':', 'of')}-{self.method}-{self.budget}-{self.steps}-{self.seed}"


@dataclass(frozen=True)
class Course:
    """What an arm does. `phases`: of all its steps, as they are paid for; `trained`: those of its training under masks.

    `told`: what else its result says.
    """

    method: Method
    patterns: Mapping[str, Sparsity]
    phases: Phases
    trained: Phases
    told: Mapping[str, Any] = field(default_factory=dict)


def course_of(recipe: Recipe, arm: Arm, model: nn.Module) -> Course:
    """The course of an arm that starts from `model`; a search for patterns is run here."""
    method = METHODS["one_shot" if arm.method == SLS else arm.method]
    patterns = recipe.wanted(NO_PATTERN if arm.method == "dense" else Sparsity.parse(arm.pattern))
    dense = {SLS: SEARCH_SHARE, "one_shot": recipe.schedule.one_shot_dense}.get(arm.method, 0.0)
    phases = Phases(arm.steps, dense=dense)
    if arm.flops:
        phases = replace(phases, total=equal_flops_steps(method, phases, recipe.accounts(patterns)))
    if arm.method != SLS:
        return Course(method, patterns, phases, phases)
    found = searched_patterns(recipe, model, patterns, phases.start, arm.seed)
    # The search trains a copy, which is dropped. What it leaves of the steps starts from the same weights.
    left = Phases(phases.total - found.steps, fine_tune=0.0)
    told = {
        "search_steps": found.steps, "search_cost": found.cost, "trimmed": len(found.trimmed),
        "patterns": {name: str(pattern) for name, pattern in found.patterns.items()},
    }  # fmt: skip
    pruned = {name: pattern for name, pattern in found.patterns.items() if not pattern.dense}
    return Course(method, pruned, Phases(phases.total, dense=found.steps / phases.total, fine_tune=0.0), left, told)


def train(recipe: Recipe, arm: Arm) -> dict[str, Any]:
    """Train one arm and test it with hard masks; the same arm gives the same result."""
    model = recipe.start(arm.seed)
    course = course_of(recipe, arm, model)
    training = SparseTraining(model, course.patterns, course.method, course.trained)
    log = DiagnosticsLog(training, dense=arm.method == "dense")
    kept, pruned = fit(recipe, model, training, arm.seed, recipe.schedule, log=log)
    masks = list(training.finish().values())
    late = [values for step, _, values in log.rows if step >= course.trained.total // 2]
    flops = training_flops(course.method, course.phases, recipe.accounts(course.patterns), recipe.schedule.batch)
    return {
        "recipe": recipe.name,
        "method": arm.method,
        "pattern": arm.pattern,
        "seed": arm.seed,
        "budget": arm.budget,
        "steps": course.phases.total,
        "score": recipe.score(model),
        "kept": sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks) if masks else None,
        **{name: _mean([getattr(values, name) for values in late]) for name in FIGURES},
        "nsr": _ratio(kept),
        "nsr_pruned": _ratio(pruned),
        "flops_algorithmic": flops.algorithmic,
        "flops_realisable": flops.realisable,
        **course.told,
    }


def rate_at(schedule: Schedule, step: int, steps: int) -> float:
    """The learning rate of a step."""
    warm = round(schedule.warm_up * steps)
    if step < warm:
        return schedule.rate * (step + 1) / warm
    if schedule.rates is Rates.CONSTANT:
        return schedule.rate
    return schedule.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def fit(recipe: Recipe, model: nn.Module, training: SparseTraining, seed: int, schedule: Schedule, *,
        log: DiagnosticsLog | None = None) -> tuple[Noise, Noise]:  # fmt: skip
    """Train for all phases of `training`; the noise of kept and of pruned weights' gradients in the second half."""
    steps = training.phases.total
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=schedule.weight_decay, fused=True)
    samples, noises = recipe.batches(seed), (Noise(0.0, 0.0), Noise(0.0, 0.0))
    for step in range(steps):
        inputs, targets = next(samples)
        set_rate(optimizer, rate_at(schedule, step, steps))
        training.begin(step)
        if log is not None and step >= steps // 2 and (step - steps // 2) % schedule.noise_every == 0:
            noises = _added(noises, _noise(recipe, model, training, inputs, targets))
        optimizer.zero_grad()
        torch.autograd.backward(recipe.loss(model(inputs), targets))
        training.after_backward()
        if schedule.clip is not None:
            nn.utils.clip_grad_norm_(parameters, schedule.clip)
        if log is not None:
            log.watch(step)
        optimizer.step()
        if log is not None:
            log.record(step, optimizer)
        training.after_step(optimizer)
    return noises


def _noise(recipe: Recipe, model: nn.Module, training: SparseTraining, inputs: Tensor,
           targets: Tensor) -> tuple[Noise, Noise]:  # fmt: skip
    """Of kept and of pruned weights, from the two halves of a batch, over all layers."""
    halves = []
    for part in (slice(0, len(inputs) // 2), slice(len(inputs) // 2, None)):
        model.zero_grad()
        torch.autograd.backward(recipe.loss(model(inputs[part]), targets[part]))
        halves.append({n: x.master.grad.clone() for n, x in training.layers.items() if x.master.grad is not None})
    found = (Noise(0.0, 0.0), Noise(0.0, 0.0))
    for name, layer in training.layers.items():
        found = _added(found, gradient_noise(halves[0][name], halves[1][name], layer.mask))
    return found


def _added(first: tuple[Noise, Noise], second: tuple[Noise, Noise]) -> tuple[Noise, Noise]:
    """Noise and signal are summed over measurements: a ratio of each would be ruled by signals near zero."""
    a, b = (Noise(x.noise + y.noise, x.signal + y.signal) for x, y in zip(first, second, strict=True))
    return a, b


def _ratio(found: Noise) -> float | None:
    """None where the half-batches did not agree in direction, or there was no gradient at all."""
    return found.nsr if found.signal > 0 else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
