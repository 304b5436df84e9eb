"""Packing: an N:M weight as its kept values and the places that they come from, and back again without any loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import WeightLayout, filled_up
from compress.sparsity.legality import check
from compress.sparsity.storage import Layout, cheapest, index_bits

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """`values`: [groups * N] in the weight's type; `index`: uint8, the places of all groups as one stream of bits.

    Groups go through the canonical rows one after another; within a group kept channels ascend. Bits are written lowest
    first. A group with fewer values than N keeps zeros too, at its lowest free channels; a short last group is filled
    up with zeros.
    """

    values: Tensor
    index: Tensor
    shape: tuple[int, ...]
    pattern: Sparsity
    weight_layout: WeightLayout
    layout: Layout

    @property
    def bytes(self) -> int:
        """Bytes of values and places."""
        return self.values.numel() * self.values.element_size() + self.index.numel()


def pack(weight: Tensor, pattern: Sparsity, weight_layout: WeightLayout, layout: Layout | None = None) -> Packed:
    """Pack a weight; without a `layout`, in the one that takes the fewest bits.

    UsageError where a group holds more than N values other than zero: nothing is dropped silently. Minus zero at a
    pruned place comes back as zero.
    """
    found = check(weight, pattern, weight_layout)
    if not found.holds:
        raise UsageError(f"the weight cannot be packed: {found.reason}")
    bits = 8 * weight.element_size()
    layout = layout or cheapest(pattern, bits)
    width = index_bits(pattern, layout, bits)
    rows = filled_up(weight_layout.rows(weight.detach()), pattern.m).reshape(-1, pattern.m)
    # The values other than zero first, then zeros; both by channel.
    order = torch.sort((rows == 0).to(torch.uint8), dim=1, stable=True).indices[:, : pattern.n].sort(dim=1).values
    values = rows.gather(1, order).reshape(-1).contiguous()
    index = torch.from_numpy(_written(order.numpy(), pattern, layout, width))
    return Packed(values, index, tuple(weight.shape), pattern, weight_layout, layout)


def unpack(packed: Packed) -> Tensor:
    """The weight, bit for bit. UsageError where values or places are too few or too many for the shape."""
    length = packed.weight_layout.length(packed.shape)
    per_row = -(-length // packed.pattern.m)
    groups = math.prod(packed.shape) // length * per_row
    width = index_bits(packed.pattern, packed.layout, 8 * packed.values.element_size())
    if packed.values.numel() != groups * packed.pattern.n or packed.index.numel() != -(-groups * width // 8):
        raise UsageError(f"its values and places are not those of {groups} groups of {packed.pattern}")
    places = torch.from_numpy(_read(packed.index.numpy(), groups, packed.pattern, packed.layout, width))
    rows = torch.zeros(groups, packed.pattern.m, dtype=packed.values.dtype)
    rows.scatter_(1, places, packed.values.reshape(groups, packed.pattern.n))
    whole = rows.reshape(-1, per_row * packed.pattern.m)[:, :length]
    return packed.weight_layout.from_rows(whole, packed.shape).contiguous()


def _written(places: Places, pattern: Sparsity, layout: Layout, width: int) -> NDArray[np.uint8]:
    if layout is Layout.BITMAP:
        marks = np.zeros((len(places), pattern.m), dtype=np.uint8)
        np.put_along_axis(marks, places, 1, axis=1)
        return np.packbits(marks.reshape(-1), bitorder="little")
    if layout is Layout.COMBINATORIAL:
        return _bits(_ranks(places, pattern), width)
    return _bits(places.reshape(-1), width // pattern.n)


def _read(index: NDArray[np.uint8], groups: int, pattern: Sparsity, layout: Layout, width: int) -> Places:
    if layout is Layout.BITMAP:
        marks = np.unpackbits(index, count=groups * pattern.m, bitorder="little").reshape(groups, pattern.m)
        return np.nonzero(marks)[1].reshape(groups, pattern.n).astype(np.int64)
    if layout is Layout.COMBINATORIAL:
        return _unranked(_numbers(index, groups, width), pattern)
    return _numbers(index, groups * pattern.n, width // pattern.n).reshape(groups, pattern.n)


def _bits(numbers: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Numbers of `width` bits each as one stream, lowest bit first."""
    marks = (numbers[:, None] >> np.arange(width)) & 1
    return np.packbits(marks.astype(np.uint8).reshape(-1), bitorder="little")


def _numbers(stream: NDArray[np.uint8], count: int, width: int) -> NDArray[np.int64]:
    marks = np.unpackbits(stream, count=count * width, bitorder="little").reshape(count, width)
    result: NDArray[np.int64] = (marks.astype(np.int64) << np.arange(width)).sum(1)
    return result


def _binomials(pattern: Sparsity) -> NDArray[np.int64]:
    """C(p, i) for p < M and i <= N; those that exceed a rank are never reached."""
    limit = math.comb(pattern.m, pattern.n)
    return np.array([[min(math.comb(p, i), limit) for i in range(pattern.n + 1)] for p in range(pattern.m)], np.int64)


def _ranks(places: Places, pattern: Sparsity) -> NDArray[np.int64]:
    """Rank of each choice in the combinatorial number system: the sum of C(place_i, i), i = 1 ... N."""
    table = _binomials(pattern)
    result: NDArray[np.int64] = sum(
        (table[places[:, i], i + 1] for i in range(pattern.n)), np.zeros(len(places), np.int64)
    )
    return result


def _unranked(ranks: NDArray[np.int64], pattern: Sparsity) -> Places:
    table, left = _binomials(pattern), ranks.copy()
    places = np.empty((len(ranks), pattern.n), np.int64)
    for i in range(pattern.n, 0, -1):
        places[:, i - 1] = np.searchsorted(table[:, i], left, side="right") - 1
        left -= table[places[:, i - 1], i]
    return places
