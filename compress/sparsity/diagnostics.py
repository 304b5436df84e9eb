"""What gradients do under a moving mask, per layer: noise, energy spent on pruned weights, flips, what is retained.

The variance of v and of g responds to how a method scales gradients and is partly mechanical (masked gradients hold
zeros); it stands beside the true noise of `gradient_noise`, and is no proxy of quality.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from compress.sparsity.training import SparseLayer, SparseTraining

TINY = 1e-30


@dataclass(frozen=True)
class LayerDiagnostics:
    """One layer at one step. Variances are over elements; rates and shares are of all weights of the layer."""

    v_mean: float
    v_var: float
    g_var: float
    g_norm: float
    g_max: float
    pruned_energy: float
    """Share of the gradient's energy on weights that do not exist at inference."""
    update_kept: float
    """Root mean square of the optimiser's step on kept weights."""
    update_pruned: float
    """The same on pruned weights: Adam keeps it at full size where only the gradient is scaled, and slowly."""
    flip_rate: float
    """Weights whose mask changed at the last refresh."""
    reentry_rate: float
    """Weights that came back into the mask at the last refresh; their v was learned while they were pruned."""
    sad: float
    """Weights whose mask differs from the first one (SR-STE's divergence, normalised)."""
    retained: float
    """Share of the magnitude that the mask keeps."""
    retained_gap: float
    """How much more the same number of weights would keep if they could lie anywhere."""


Row = tuple[int, str, LayerDiagnostics]
"""(step, layer, its averaged figures)."""


@dataclass(frozen=True)
class Noise:
    """Two half-batches at the same weights: noise |g1 - g2|^2 / 2, signal <g1, g2>."""

    noise: float
    signal: float

    @property
    def nsr(self) -> float:
        """Noise over signal; a signal that is not positive counts as tiny."""
        return self.noise / max(self.signal, TINY)


def gradient_noise(first: Tensor, second: Tensor, mask: Tensor) -> tuple[Noise, Noise]:
    """The noise of kept and of pruned weights from the gradients of two half-batches, all of the weight's shape."""

    def of(part: Tensor) -> Noise:
        a, b = first.double()[part], second.double()[part]
        return Noise(0.5 * float((a - b).square().sum()), float((a * b).sum()))

    return of(mask), of(~mask)


def retained(weight: Tensor, mask: Tensor) -> tuple[float, float]:
    """(share of |W| that the mask keeps, how much more the largest weights of the same number would keep)."""
    size = weight.detach().abs().double().flatten()
    total = max(float(size.sum()), TINY)
    kept = float(size[mask.flatten()].sum()) / total
    free = float(size.topk(int(mask.sum())).values.sum()) / total
    return kept, free - kept


def measure(layer: SparseLayer, first_mask: Tensor, second_moment: Tensor | None,
            before: Tensor | None = None) -> LayerDiagnostics:  # fmt: skip
    """The figures of a layer behind an optimiser's step, with the gradient as the optimiser received it.

    `second_moment`: the optimiser's v, None where it has none. `before`: the master weight ahead of the step; None: as
    it is now.
    """
    gradient = layer.master.grad
    g = torch.zeros_like(layer.master) if gradient is None else gradient
    g = g.detach().double()
    v = torch.zeros(1, dtype=torch.float64) if second_moment is None else second_moment.detach().double()
    energy = float(g.square().sum())
    pruned = float(g.masked_fill(layer.mask, 0.0).square().sum())
    now = layer.master.detach()
    moved = (now.double() - (now if before is None else before).double()).square()
    keep, gap = retained(layer.master, layer.mask)
    count = layer.mask.numel()
    return LayerDiagnostics(
        v_mean=float(v.mean()),
        v_var=float(v.var(unbiased=False)),
        g_var=float(g.var(unbiased=False)),
        g_norm=energy**0.5,
        g_max=float(g.abs().max()),
        pruned_energy=pruned / max(energy, TINY),
        update_kept=_rms(moved[layer.mask]),
        update_pruned=_rms(moved[~layer.mask]),
        flip_rate=int(layer.flips) / count,
        reentry_rate=int(layer.entries) / count,
        sad=int(torch.count_nonzero(layer.mask != first_mask)) / count,
        retained=keep,
        retained_gap=gap,
    )


def _rms(squares: Tensor) -> float:
    return float(squares.mean()) ** 0.5 if squares.numel() else 0.0


class DiagnosticsLog:
    """Averages of the figures over about `horizon` steps, taken every `every` steps, by layer.

    In each step: `watch(step)` behind the backward pass, `optimizer.step()`, `record(step, optimizer)`. `dense`: take
    them where a layer has no mask as well, all of its weights kept, for a dense training that others are compared with.
    """

    def __init__(self, training: SparseTraining, every: int = 10, horizon: int = 100, *, dense: bool = False) -> None:
        self.training, self.horizon, self.dense = training, horizon, dense
        self.sample(every)
        self.rows: list[Row] = []
        self.first: dict[str, Tensor] = {}
        """The first mask of each layer."""
        self._before: dict[str, Tensor] = {}

    def sample(self, every: int) -> None:
        """Take figures every `every` steps from now on."""
        self.every, self.decay = every, max(0.0, 1.0 - every / self.horizon)

    def watch(self, step: int) -> None:
        """Remember the first masks, and where figures are due the weights ahead of the optimiser's step."""
        for name, layer in self.training.layers.items():
            if layer.sparse.action.pattern is None and not self.dense:
                continue
            self.first.setdefault(name, layer.mask.clone())
            if step % self.every == 0:
                self._before[name] = layer.master.detach().clone()

    def record(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Take the figures of a step that was watched and is due; gradients must still be there."""
        latest = {name: values for _, name, values in self.rows[-len(self.training.layers) :]}
        for name, before in self._before.items():
            layer = self.training.layers[name]
            moment = optimizer.state.get(layer.master, {}).get("exp_avg_sq")
            new = measure(layer, self.first[name], moment, before)
            old = latest.get(name)
            self.rows.append((step, name, new if old is None else _blend(old, new, self.decay)))
        self._before.clear()


def _blend(old: LayerDiagnostics, new: LayerDiagnostics, decay: float) -> LayerDiagnostics:
    names = [f.name for f in fields(LayerDiagnostics)]
    return LayerDiagnostics(*(decay * getattr(old, n) + (1 - decay) * getattr(new, n) for n in names))
