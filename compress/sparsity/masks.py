"""N:M masks: the N best of each group of M, ties to the lower channel, the same on every device and in every run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import Axis, WeightLayout, split_dim
from compress.sparsity.selection import nth_largest


@dataclass(frozen=True)
class Scored:
    """How much each weight of a layer is worth, in the weight's shape, and how the layer lies."""

    scores: Tensor
    layout: WeightLayout
    axis: Axis = Axis.INPUT

    def grouped(self, m: int) -> Tensor:
        """The scores in float32 with the members of a group along dimension 0, [M, groups].

        What is missing in the last group of a row is minus infinity: a group never reaches into the next row or kernel
        position. UsageError for fewer channels than M.
        """
        shape = tuple(self.scores.shape)
        length = self.layout.length(shape, self.axis)
        if length < m:
            raise UsageError(f"{length} channels are fewer than a group of {m}; choose a pattern that fits the layer")
        dim = self.layout.dim(self.axis)
        parts = split_dim(self.scores.detach().to(torch.float32), dim, length)
        if short := -length % m:
            missing = parts.new_full((), -math.inf).expand(*parts.shape[: dim + 1], short, *parts.shape[dim + 2 :])
            parts = torch.cat([parts, missing], dim + 1)
        split = split_dim(parts, dim + 1, m)
        result: Tensor = split.movedim(dim + 2, 0).reshape(m, -1)
        return result

    def ungrouped(self, grouped: Tensor) -> Tensor:
        """The inverse of `grouped`, for the mask: contiguous, in the weight's shape."""
        dim, shape, m = self.layout.dim(self.axis), self.scores.shape, grouped.shape[0]
        length = self.layout.length(tuple(shape), self.axis)
        count = -(-length // m)
        split = [*shape[:dim], shape[dim] // length, count, *shape[dim + 1 :]]
        whole = grouped.reshape(m, *split).movedim(0, dim + 2).flatten(dim + 1, dim + 2)
        result: Tensor = whole.narrow(dim + 1, 0, length).reshape(shape).contiguous()
        return result


def nm_mask(scores: Tensor, pattern: Sparsity, layout: WeightLayout, axis: Axis = Axis.INPUT) -> Tensor:
    """The bool mask of one layer, in its weight's shape: true for what is kept, exactly N in each group.

    UsageError where there are fewer channels than M, or a score is NaN.
    """
    return nm_masks({"": Scored(scores, layout, axis)}, pattern)[""]


def nm_masks(layers: Mapping[str, Scored], pattern: Sparsity) -> dict[str, Tensor]:
    """Masks of several layers of one pattern; all groups are compared together, which is far fewer operations."""
    grouped = {name: layer.grouped(pattern.m) for name, layer in layers.items()}
    parts = list(grouped.values())
    scores = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    try:
        kept = keep_largest(scores, pattern.n)
    except UsageError:
        names = [name for name, part in grouped.items() if bool(torch.isnan(part).any())]
        raise UsageError(f"the scores of layer {names[0]!r} hold NaN; the training has diverged") from None
    split = torch.split(kept, [part.shape[1] for part in parts], 1)
    return {name: layers[name].ungrouped(part) for name, part in zip(grouped, split, strict=True)}


def keep_largest(scores: Tensor, n: int) -> Tensor:
    """True for the `n` largest of `scores` [M, groups] in each group; of equal scores, the first ones are kept.

    UsageError for NaN.
    """
    # One sum tells whether a NaN is possible, at a fraction of what looking for it costs.
    if bool(torch.isnan(scores.sum())) and bool(torch.isnan(scores).any()):
        raise UsageError("scores hold NaN")
    if n == scores.shape[0]:
        return torch.ones_like(scores, dtype=torch.bool)
    kept = scores >= nth_largest(scores, n)
    if int(torch.count_nonzero(kept)) != n * scores.shape[1]:
        # Where the n-th score occurs more than once, too many pass.
        tied = (kept.sum(0) != n).nonzero().squeeze(1)
        kept[:, tied] = _ranks(scores[:, tied]) < n
    return kept


def _ranks(scores: Tensor) -> Tensor:
    """Place of each score in its group, [M, groups], 0 for the best, all different: the stable descending order."""
    order = torch.sort(scores, dim=0, descending=True, stable=True).indices
    places = torch.arange(len(scores), device=scores.device).unsqueeze(1).expand_as(order)
    return torch.empty_like(order).scatter_(0, order, places)


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
