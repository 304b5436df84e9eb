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
    flip_rate: float
    """Weights whose mask changed at the last refresh."""
    sad: float
    """Weights whose mask differs from the first one (SR-STE's divergence, normalised)."""
    retained: float
    """Share of the magnitude that the mask keeps."""
    retained_gap: float
    """How much more the same number of weights would keep if they could lie anywhere."""


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


def measure(layer: SparseLayer, first_mask: Tensor, second_moment: Tensor | None) -> LayerDiagnostics:
    """The figures of a layer behind a backward pass. `second_moment`: the optimiser's v, None where it has none."""
    gradient = layer.master.grad
    g = torch.zeros_like(layer.master) if gradient is None else gradient
    g = g.detach().double()
    v = torch.zeros(1, dtype=torch.float64) if second_moment is None else second_moment.detach().double()
    energy = float(g.square().sum())
    pruned = float(g.masked_fill(layer.mask, 0.0).square().sum())
    keep, gap = retained(layer.master, layer.mask)
    count = layer.mask.numel()
    return LayerDiagnostics(
        v_mean=float(v.mean()),
        v_var=float(v.var(unbiased=False)),
        g_var=float(g.var(unbiased=False)),
        g_norm=energy**0.5,
        g_max=float(g.abs().max()),
        pruned_energy=pruned / max(energy, TINY),
        flip_rate=int(layer.flips) / count,
        sad=int(torch.count_nonzero(layer.mask != first_mask)) / count,
        retained=keep,
        retained_gap=gap,
    )


class DiagnosticsLog:
    """Averages of the figures over about `horizon` steps, taken every `every` steps, by layer; call behind backward."""

    def __init__(self, training: SparseTraining, every: int = 10, horizon: int = 100) -> None:
        self.training, self.every, self.decay = training, every, max(0.0, 1.0 - every / horizon)
        self.rows: list[tuple[int, str, LayerDiagnostics]] = []
        self._first: dict[str, Tensor] = {}
        self._average: dict[str, LayerDiagnostics] = {}

    def record(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Take the figures of a step where it is due; masks are compared with the first one of their layer."""
        for name, layer in self.training.layers.items():
            if layer.sparse.action.pattern is None:
                continue
            first = self._first.setdefault(name, layer.mask.clone())
            if step % self.every:
                continue
            moment = optimizer.state.get(layer.master, {}).get("exp_avg_sq")
            new = measure(layer, first, moment)
            old = self._average.get(name)
            self._average[name] = new if old is None else _blend(old, new, self.decay)
            self.rows.append((step, name, self._average[name]))


def _blend(old: LayerDiagnostics, new: LayerDiagnostics, decay: float) -> LayerDiagnostics:
    names = [f.name for f in fields(LayerDiagnostics)]
    return LayerDiagnostics(*(decay * getattr(old, n) + (1 - decay) * getattr(new, n) for n in names))
