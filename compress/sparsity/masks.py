"""N:M masks: the N best of each group of M, ties to the lower channel, the same on every device and in every run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity
from compress.sparsity.largest import BLOCK, largest
from compress.sparsity.layouts import Axis, WeightLayout


@dataclass(frozen=True)
class Scored:
    """How much each weight of a layer is worth, in the weight's shape, and how the layer lies."""

    scores: Tensor
    layout: WeightLayout
    axis: Axis = Axis.INPUT

    def cut(self, m: int, fill: float = -math.inf) -> Tensor:
        """The scores in float32 as [runs, M, positions], a group at each run and position; a view where one can be had.

        What is missing in the last group of a row is `fill`: a group never reaches into the next row or kernel
        position. UsageError for fewer channels than M.
        """
        length, positions = self._cut()
        if length < m:
            raise UsageError(f"{length} channels are fewer than a group of {m}; choose a pattern that fits the layer")
        scores = self.scores.detach().to(torch.float32)
        if short := -length % m:
            scores = functional.pad(scores.reshape(-1, length, positions), (0, 0, 0, short), value=fill)
        return scores.reshape(-1, m, positions)

    def joined(self, cut: Tensor) -> Tensor:
        """The inverse of `cut`, for the mask: in the weight's shape, contiguous, in memory of its own."""
        if cut.numel() > self.scores.numel():
            length, positions = self._cut()
            cut = cut.reshape(-1, length + -length % cut.shape[1], positions)[:, :length]
        return cut.reshape(self.scores.shape).clone(memory_format=torch.contiguous_format)

    def grouped(self, m: int) -> Tensor:
        """`cut` with the members of a group along dimension 0, [M, groups]."""
        return self.cut(m).movedim(1, 0).reshape(m, -1)

    def ungrouped(self, grouped: Tensor) -> Tensor:
        """The inverse of `grouped`: contiguous, in the weight's shape."""
        return self.joined(grouped.reshape(grouped.shape[0], -1, self._cut()[1]).movedim(0, 1))

    def _cut(self) -> tuple[int, int]:
        """Channels that groups lie in, and places at which each channel has a weight of its own for one run of them."""
        shape = tuple(self.scores.shape)
        return self.layout.length(shape, self.axis), math.prod(shape[self.layout.dim(self.axis) + 1 :])


def nm_mask(scores: Tensor, pattern: Sparsity, layout: WeightLayout, axis: Axis = Axis.INPUT) -> Tensor:
    """The bool mask of one layer, in its weight's shape: true for what is kept, exactly N in each group.

    UsageError where there are fewer channels than M, or a score is NaN.
    """
    return nm_masks({"": Scored(scores, layout, axis)}, pattern)[""]


def nm_masks(layers: Mapping[str, Scored], pattern: Sparsity, *, magnitudes: bool = False) -> dict[str, Tensor]:
    """Masks of several layers of one pattern; small ones are compared together, which is far fewer operations.

    `magnitudes`: the scores' absolute values count, so that weights can be given as they are; faster than to give
    their magnitudes. UsageError as for one layer.
    """
    # Behind magnitudes a zero is as good as minus infinity: of equal ones the first is kept.
    fill = 0.0 if magnitudes else -math.inf
    kept: dict[str, Tensor] = {}
    for parts in _batches({name: layer.cut(pattern.m, fill) for name, layer in layers.items()}):
        scores = list(parts.values())
        try:
            found = largest(scores[0] if len(scores) == 1 else torch.cat(scores), pattern.n, magnitudes=magnitudes)
        except UsageError:
            broken = next(name for name, part in parts.items() if bool(torch.isnan(part).any()))
            raise UsageError(f"the scores of layer {broken!r} hold NaN; the training has diverged") from None
        start = 0
        for name, part in parts.items():
            end = start + part.shape[0]
            kept[name] = layers[name].joined(found[start:end])
            start = end
    return {name: kept[name] for name in layers}


def _batches(cut: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Scores that can be laid behind one another, as many as make a block; larger ones alone."""
    waiting: dict[int, dict[str, Tensor]] = {}
    sizes: Counter[int] = Counter()
    for name, part in cut.items():
        positions = part.shape[2]
        if positions in waiting and sizes[positions] + part.numel() > BLOCK:
            yield waiting.pop(positions)
            del sizes[positions]
        waiting.setdefault(positions, {})[name] = part
        sizes[positions] += part.numel()
    yield from waiting.values()


def keep_largest(scores: Tensor, n: int) -> Tensor:
    """True for the `n` largest of `scores` [M, groups] in each group; of equal scores, the first ones are kept.

    UsageError for NaN.
    """
    return largest(scores.unsqueeze(0), n).squeeze(0)


def fused_mask(scores: Tensor, patterns: Sequence[Sparsity | None], layout: WeightLayout) -> Tensor:
    """The mask of a weight that holds several projections stacked along axis 0 (Q, K, V), each with its own pattern.

    None keeps a projection dense. UsageError where the rows do not divide evenly.
    """
    if scores.shape[0] % len(patterns):
        raise UsageError(f"{scores.shape[0]} rows cannot hold {len(patterns)} projections of one size")
    blocks = scores.chunk(len(patterns), 0)
    return torch.cat(
        [
            torch.ones_like(block, dtype=torch.bool) if pattern is None else nm_mask(block, pattern, layout)
            for block, pattern in zip(blocks, patterns, strict=True)
        ]
    )
