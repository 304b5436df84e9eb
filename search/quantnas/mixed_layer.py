"""MixedLayer: a searched layer as the expectation over its candidates, one pass for each operation.

y = sum_o p_o F_o(x; q_o) with p_o = sum_b alpha_ob and q_ob = alpha_ob / p_o. A convolution is linear in its weight, so
p_o multiplies the last weight of an operation and not what comes out: no full-size product is made or kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from search.quantnas.operand_noise import (
    NoiseTable,
    NoisyOperand,
    Scalar,
    merged_std,
    scalars,
    stacked_steps,
    steps_of,
)
from search.quantnas.quant_conv import QuantConv
from search.quantnas.quant_settings import Mode, NoiseSource, QuantSettings
from workloads.super_resolution.models.searched import Operation, Site


class Candidate(nn.Module):
    """One operation at a mixture of bit widths."""

    def __init__(self, chosen: Operation, bits: tuple[int, ...], settings: QuantSettings) -> None:
        super().__init__()
        self.chosen, self.settings = chosen, settings
        self.units = nn.ModuleList(QuantConv(spec, bits, settings) for spec in chosen.convs)

    def convs(self) -> Iterator[QuantConv]:
        """The convolutions in order."""
        for unit in self.units:
            assert isinstance(unit, QuantConv)
            yield unit

    def run(self, source: Source, q: Tensor, p: Scalar, stds: Stds) -> Tensor:
        """p * F(x; q). The share `p` is in the last weight."""
        chosen, last = self.chosen, len(self.units) - 1
        if last < 0:
            return source.x * p.tensor
        made = source.x.repeat(1, chosen.tile_before, 1, 1) if chosen.tile_before > 1 else source.x
        for index, unit in enumerate(self.convs()):
            first = made is source.x
            value = source if first else source.again(made)
            known = (stds.activation if first else None, stds.weights[index])
            made = value.through(unit, q, p, known, scaled=index == last)
        return made.repeat(1, chosen.tile_after, 1, 1) if chosen.tile_after > 1 else made


class Stds(NamedTuple):
    """Merged standard deviations of a candidate's noise: on the layer's input and on each weight."""

    activation: Scalar | None
    weights: Sequence[Scalar | None]


class Source:
    """A layer's input, with what its readers share: the ReLU, the steps and the draw of noise."""

    def __init__(self, x: Tensor, bits: tuple[int, ...], settings: QuantSettings, table: NoiseTable | None,
                 training: bool) -> None:  # fmt: skip
        self.x, self.bits, self.settings, self.table, self.training = x, bits, settings, table, training
        self._active: Tensor | None = None
        self._operand: NoisyOperand | None = None

    def again(self, x: Tensor) -> Source:
        """The same for another tensor."""
        return Source(x, self.bits, self.settings, self.table, self.training)

    @property
    def active(self) -> Tensor:
        """relu(x)."""
        if self._active is None:
            self._active = F.relu(self.x)
        return self._active

    @property
    def operand(self) -> NoisyOperand:
        """relu(x) with its steps and its draw."""
        if self._operand is None:
            active, settings = self.active, self.settings
            steps = steps_of(active, self.bits, settings, signed=False)
            eps = None
            if settings.merged:
                eps = torch.randn_like(active) if self.table is None else self.table.draw(active)
            self._operand = NoisyOperand(active, steps, eps)
        return self._operand

    def through(self, unit: QuantConv, q: Tensor, p: Scalar, stds: tuple[Scalar | None, Scalar | None], *,
                scaled: bool) -> Tensor:  # fmt: skip
        """This input through a convolution, in the mode of the search."""
        share = p.tensor if scaled else None
        mode = self.settings.mode
        if mode is Mode.FLOAT:
            return unit.plain(self.active, share)
        if mode is Mode.NOISE and self.training:
            return unit.noisy(self.operand, q, p, scaled, self.table, stds)
        if mode is Mode.NOISE:
            return unit.rounded(self.active, q, share)
        return unit.mixed(self.x, q, share)


class MixedLayer(nn.Module):
    """The candidates of a layer. `weigh` sets the probabilities [operations, bits] of the next passes.

    In separate mode each pair of operation and bit width is a candidate of its own.
    """

    def __init__(self, site: Site, settings: QuantSettings, table: NoiseTable | None = None, *,
                 recompute: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.site, self.settings, self.recompute = site, settings, recompute
        self.table = table if settings.source is NoiseSource.TABLE else None
        separate = settings.mode is Mode.SEPARATE
        self.groups = tuple((b,) for b in site.bits) if separate else (site.bits,)
        self.candidates = nn.ModuleList(
            Candidate(chosen, group, settings) for chosen in site.operations for group in self.groups
        )  # fmt: skip
        self._alpha: Tensor | None = None
        self._row_of: Tensor | None = None

    def weigh(self, alpha: Tensor) -> None:
        """Set the probabilities, [operations, bits]."""
        self._alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H, W]."""
        assert self._alpha is not None, "weigh the layer first"
        if self.recompute and self.training and torch.is_grad_enabled():
            result: Tensor = checkpoint(self._mixed, x, self._alpha, use_reentrant=False)
            return result
        return self._mixed(x, self._alpha)

    def _mixed(self, x: Tensor, alpha: Tensor) -> Tensor:
        groups = alpha.reshape(len(self.candidates), -1)
        shares = groups.sum(1)
        mixtures = groups / shares.clamp_min(torch.finfo(shares.dtype).tiny)[:, None]
        # A layer that is one-hot runs one operation. On a GPU, where training does not wait for values, all run.
        known = [s.value for s in scalars(shares)] if self.training else shares.detach().tolist()
        source = Source(x, self.groups[0], self.settings, self.table, self.training)
        stds = self._stds(source, mixtures)
        total: Tensor | None = None
        rows = zip(self.candidates, mixtures.unbind(0), shares.unbind(0), known, stds, strict=True)
        for candidate, q, p, value, std in rows:
            assert isinstance(candidate, Candidate)
            if value == 0.0 or candidate.chosen.is_zero:
                continue
            made = candidate.run(source, q, Scalar(p, value), std)
            # In place: no backward pass of a convolution or of a sum asks for this value.
            total = made if total is None else total.add_(made)
        if total is None:
            return x.new_zeros(1).expand(x.shape[0], self.site.outputs, *x.shape[2:])
        return total

    def _stds(self, source: Source, mixtures: Tensor) -> list[Stds]:
        """For all candidates at once: a layer has a dozen convolutions, and each tiny kernel has its price."""
        counts = [len(candidate.chosen.convs) for candidate in self._each()]
        if not (self.training and self.settings.mode is Mode.NOISE and self.settings.merged):
            return [Stds(None, [None] * count) for count in counts]
        scale = self.settings.noise_scale
        activations = scalars(merged_std(mixtures, source.operand.steps, scale))
        weights = [unit.weight for candidate in self._each() for unit in candidate.convs()]
        steps = stacked_steps(weights, self.groups[0], self.settings)
        rows = self._rows(counts, mixtures.device)
        of_weights = iter(scalars(merged_std(mixtures[rows], steps, scale)) if len(rows) else [])
        return [Stds(a, [next(of_weights) for _ in range(count)]) for a, count in zip(activations, counts, strict=True)]

    def _rows(self, counts: list[int], device: torch.device) -> Tensor:
        """The candidate's row of each convolution. Kept: a GPU would copy it from the host in each step."""
        if self._row_of is None or self._row_of.device != device:
            rows = [row for row, count in enumerate(counts) for _ in range(count)]
            self._row_of = torch.tensor(rows, dtype=torch.long, device=device)
        return self._row_of

    def _each(self) -> Iterator[Candidate]:
        for candidate in self.candidates:
            assert isinstance(candidate, Candidate)
            yield candidate
