"""The search: weights on one part of the pictures, the architecture on another; it can go on after any step.

First-order bilevel optimisation in the manner of DARTS: at each step, once the warm-up is over, the logits are moved on
L1 + penalty * cost / cost of the start + mu(epoch) * entropy; then the weights on L1 alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note
from compress.training.processes import Processes
from compress.training.samples import batches
from compress.training.state import Position, load_state, moments, restore_moments, save_state, seed_step, step_seed
from search.quantnas.bilevel_step import BilevelStep, will_replay
from search.quantnas.cost_table import CostTable
from search.quantnas.data_split import Split
from search.quantnas.derive import derive, derive_within
from search.quantnas.entropy import Sparsity, entropy_coefficient
from search.quantnas.footprint import footprint
from search.quantnas.projection import probabilities
from search.quantnas.settings import PATCH_SIDE, PATCH_STRIDE, SearchSettings
from search.quantnas.supernet import Supernet
from workloads.super_resolution.models.searched import Genotype, SearchSpace

STATE = "search.safetensors"
DECIDES = "space, cost, settings or pictures"
MULTIPLIER = "multiplier"
EVERYONE = -1
"""In place of a rank: what all processes draw alike."""


@dataclass(frozen=True)
class Found:
    """The genotype of the last step, its cost (whole network) and how it came about.

    `alphas`: probabilities at the start and after each epoch, [records, operations, bits] by name of the logits.
    `corrected`: layers that were changed after the last step because the most probable network broke the budget.
    `penalty`: the coefficient of the cost at the end, which a budget has moved; `expected`: the mixture's cost there.
    """

    genotype: Genotype
    cost: float
    corrected: int
    penalty: float
    expected: float
    history: tuple[dict[str, float], ...]
    alphas: Mapping[str, Tensor]
    seconds: float


class Search:
    """One search. `path` None: nothing is saved. `on_log` hears of every entry of the history, also of those
    before a continuation.
    """

    def __init__(self, space: SearchSpace, table: CostTable, split: Split, settings: SearchSettings,
                 processes: Processes, path: Path | None = None,
                 on_log: Callable[[dict[str, float]], None] | None = None) -> None:  # fmt: skip
        self.space, self.table, self.split, self.settings = space, table, split, settings
        self.processes, self.path, self.on_log = processes, path, on_log
        self._check_budget()
        seed_step(settings.seed, -1, 0)
        self.net = Supernet(
            space, settings.quant, adq=settings.adq, recompute=settings.recompute, seed=settings.seed
        )  # fmt: skip
        self.net.projection = settings.projection
        self.net.table.reserve(self._largest_operand())
        first = [split.weights[i] for i in range(settings.batch)]
        self.net.measure_steps(torch.stack([x for x, _ in first]))
        self.net.to(processes.device).train()
        self.steps = BilevelStep(self.net, table, settings, processes)
        self.weights, self.logits = self.steps.weights, self.steps.logits
        per_epoch = settings.steps_per_epoch
        self.per_epoch = per_epoch or max(1, split.weights.patches_at(PATCH_SIDE, PATCH_STRIDE) // settings.batch)
        self.position = Position(self._fingerprint(), values={MULTIPLIER: settings.penalty})
        self.alphas = {name: [self._probabilities(name)] for name in self.net.logits}

    def run(self) -> Found:
        """Search to the end, from a saved state where there is one."""
        settings, position = self.settings, self.position
        if self.path is not None and self.path.is_file():
            position = self._restore(self.path)
            if self.on_log is not None and self.processes.first:
                for entry in position.history:
                    self.on_log(entry)
        total = settings.epochs * self.per_epoch
        self._warm(position.step)
        if position.step < total:
            self._check_footprint()
        began, saved, resumed = time.monotonic(), time.monotonic(), position.seconds
        for_weights, for_alphas = (
            batches(part, settings.batch, self.processes, position.step, settings.workers)
            for part in (self.split.weights, self.split.architecture)
        )
        losses: list[Tensor] = []
        while position.step < total:
            epoch = position.step // self.per_epoch
            seed_step(settings.seed, position.step, self.processes.rank)
            if not self.steps.replayed:
                self.net.seed_choices(step_seed(settings.seed, position.step, EVERYONE))
            self._warm(position.step)
            ended = (position.step + 1) % self.per_epoch == 0
            logged = ended or (position.step + 1) % settings.log_every == 0
            entry = self._alpha_step(next(for_alphas), epoch, logged=logged)
            losses.append(self._weight_step(next(for_weights), total))
            position.step += 1
            position.seconds = resumed + time.monotonic() - began
            if ended:
                for name, seen in self.alphas.items():
                    seen.append(self._probabilities(name))
                entry["selection"] = self.selection_loss()
            if logged:
                entry["train"] = self.processes.mean(torch.stack(losses).mean())
                losses.clear()
                self._log(entry, epoch, total)
            late = self.processes.from_first(float(time.monotonic() - saved >= settings.save_seconds))
            if late or ended:
                self._save()
                saved = time.monotonic()
        return self._found()

    def _warm(self, step: int) -> None:
        """Set the temperature of a step; behind the last one it is that of the last epoch."""
        self.net.temperature = self.settings.temperature_at(min(step // self.per_epoch, self.settings.epochs - 1))

    def _alpha_step(self, batch: tuple[Tensor, Tensor], epoch: int, *, logged: bool = True) -> dict[str, float]:
        """Move the logits; what is known of the step where it is logged, with the figures of the mixture before it."""
        settings, values = self.settings, self.position.values
        mu = entropy_coefficient(epoch, settings.epochs, settings.warm_up, settings.sparsity_weight)
        if settings.sparsity is Sparsity.NONE:
            mu = 0.0
        entry: dict[str, float] = {}
        if logged:
            expected, terms = self.steps.mixture()
            entry = {
                "epoch": float(epoch), "entropy": terms, "entropy_weight": mu, "cost": expected + self.table.fixed,
                "penalty": values[MULTIPLIER],
            }  # fmt: skip
        if epoch < settings.warm_up:
            return entry
        pixels = self.steps.alpha(batch, values[MULTIPLIER], mu)
        if settings.budget is not None:
            excess = (self.table.of(self._genotype()) + self.table.fixed) / settings.budget - 1
            values[MULTIPLIER] = max(0.0, values[MULTIPLIER] + settings.dual_rate * excess)
        return entry | {"architecture": self.processes.mean(pixels)} if logged else entry

    def _weight_step(self, batch: tuple[Tensor, Tensor], total: int) -> Tensor:
        return self.steps.weight(batch, self.position.step, total)

    @torch.no_grad()
    def selection_loss(self) -> float:
        """L1 on the third part with true rounding in place of noise."""
        self.net.eval()
        settings = self.settings
        source = batches(self.split.selection, settings.batch, self.processes, 0, 0)
        losses = [self.steps.loss(next(source)) for _ in range(settings.selection_batches)]
        self.net.train()
        return self.processes.mean(torch.stack(losses).mean())

    def _genotype(self) -> Genotype:
        return derive(self.space, self.net.scaled_logits(), adq=self.settings.adq, how=self.settings.derivation)

    def _found(self) -> Found:
        settings, corrected, genotype = self.settings, 0, self._genotype()
        if settings.budget is not None:
            genotype, corrected = derive_within(
                self.space, self.net.scaled_logits(), self.table, settings.budget - self.table.fixed, adq=settings.adq,
                how=settings.derivation,
            )  # fmt: skip
        shapes = {self.net.name_of(s).replace(".", "_"): (len(s.operations), -1) for s in self.net.sites}
        seen = {name: torch.stack(records).view(len(records), *shapes[name]) for name, records in self.alphas.items()}
        cost = self.table.of(genotype) + self.table.fixed
        expected = self.steps.mixture()[0] + self.table.fixed
        return Found(
            genotype, cost, corrected, self.position.values[MULTIPLIER], expected, tuple(self.position.history), seen,
            self.position.seconds,
        )  # fmt: skip

    def _log(self, entry: dict[str, float], epoch: int, total: int) -> None:
        position = self.position
        genotype = self._genotype()
        derived = self.table.of(genotype) + self.table.fixed
        entry |= {"step": float(position.step), "derived_cost": derived, "seconds": position.seconds}
        position.history.append(entry)
        if not self.processes.first:
            return
        left = position.seconds / position.step * (total - position.step) / 60
        outer = f"  architecture {entry['architecture']:.4f}" if "architecture" in entry else "  (warm-up)"
        chosen = " ".join(f"{c.operation}/{c.bits}" for c in list(genotype.layers.values())[:3])
        note(
            f"search: epoch {epoch + 1}/{self.settings.epochs} step {position.step}/{total}  weights "
            f"{entry['train']:.4f}{outer}  entropy {entry['entropy']:.2f} (x{entry['entropy_weight']:.1e})  expected "
            f"{entry['cost']:.4g}, network {derived:.4g} {self.table.unit}  penalty {entry['penalty']:.2g}  "
            f"{left:.1f} min left  [{chosen} ...]"
        )
        if position.step % self.per_epoch == 0:
            note("search: " + ", ".join(f"{n} {c.operation}/{c.bits}" for n, c in genotype.layers.items()))
        if self.on_log is not None:
            self.on_log(entry)

    def _probabilities(self, name: str) -> Tensor:
        logits: Tensor = self.net.logits[name]
        return probabilities(logits.detach().float().cpu(), self.net.projection, self.net.temperature)

    def _check_budget(self) -> None:
        budget, table = self.settings.budget, self.table
        if budget is not None and budget < table.least + table.fixed:
            raise UsageError(
                f"no network of the space {self.space.name} costs as little as {budget:g} {table.unit}; the cheapest "
                f"costs {table.least + table.fixed:.4g}, the dearest {table.most + table.fixed:.4g}"
            )

    def _largest_operand(self) -> int:
        """Elements of the largest tensor that noise is added to."""
        widest = max(
            max(c.inputs for c in (*o.convs,)) * site.factor**2 for site in self.net.sites for o in site.operations
            if o.convs
        )  # fmt: skip
        return widest * len(self.processes.share(self.settings.batch)) * self.settings.patch**2

    def _check_footprint(self) -> None:
        """Tell what a step takes; UsageError where it does not fit."""
        share = len(self.processes.share(self.settings.batch))
        seed_step(self.settings.seed, -2, self.processes.rank)
        passes = 2 if will_replay(self.settings, self.processes) else 1
        sharing = self.processes.size
        needs = footprint(self.net, self.split.weights[0], self.settings, share, passes, sharing)
        if self.processes.first:
            note(f"search: {self.space.name}, {len(self.net.sites)} layers, {self.per_epoch} steps an epoch; "
                 f"{needs.describe()}")  # fmt: skip
        needs.check()

    def _fingerprint(self) -> str:
        costs = "".join(f"{float(c.sum()):.9g}," for c in self.table.costs.values())
        return f"{self.settings.fingerprint()}/{self.space.model_dump_json()}/{costs}/{self.split.pictures}"

    def _save(self) -> None:
        if self.path is None or not self.processes.first:
            return
        groups = {
            "net": self.net.state_dict(), "alphas": {n: torch.stack(a) for n, a in self.alphas.items()},
            **moments(self.steps.weight_optimizer, self.weights, "weights_"),
            **moments(self.steps.alpha_optimizer, self.logits, "logits_"),
        }  # fmt: skip
        save_state(self.path, self.position, groups)

    def _restore(self, path: Path) -> Position:
        self.position, groups = load_state(path, self.position.fingerprint, DECIDES)
        self.net.load_state_dict(groups["net"])
        self.alphas = {name: list(groups["alphas"][name].unbind()) for name in self.alphas}
        restore_moments(self.steps.weight_optimizer, self.weights, "weights_", groups)
        restore_moments(self.steps.alpha_optimizer, self.logits, "logits_", groups)
        note(f"search: continuing at step {self.position.step}")
        return self.position
