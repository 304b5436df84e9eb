"""Bits that a group of N:M takes in each packed layout. A plain file with zeros is not smaller than a dense one."""

from __future__ import annotations

import math
from enum import StrEnum

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity

LARGEST_RANK = 2**63 - 1


class Layout(StrEnum):
    """How the places of the kept weights are written; the N values of a group are written in full."""

    COORDINATE = "coordinate"
    """The channel of each kept weight within its group, ceil(log2 M) bits."""
    BITMAP = "bitmap"
    """A bit for each weight of the group, M bits."""
    COMBINATORIAL = "combinatorial"
    """The rank of the choice among all C(M, N), ceil(log2 C(M, N)) bits."""
    HARDWARE = "hardware"
    """What sparse tensor cores read: 2:4 with 2 bits for each kept value; for 32-bit values 1:2 with 1 bit."""


def index_bits(pattern: Sparsity, layout: Layout, value_bits: int) -> int:
    """Bits that the places of one group take; UsageError where the layout cannot hold the pattern."""
    if not legal(pattern, layout, value_bits):
        raise UsageError(f"the layout {layout} cannot hold {pattern} of {value_bits}-bit values")
    if layout is Layout.COORDINATE:
        return pattern.n * math.ceil(math.log2(pattern.m))
    if layout is Layout.BITMAP:
        return pattern.m
    if layout is Layout.COMBINATORIAL:
        return math.ceil(math.log2(math.comb(pattern.m, pattern.n)))
    return pattern.m if pattern.m == 4 else 1


def legal(pattern: Sparsity, layout: Layout, value_bits: int) -> bool:
    """Whether a layout can hold a pattern."""
    if layout is Layout.HARDWARE:
        return (pattern.n, pattern.m) == ((1, 2) if value_bits == 32 else (2, 4))
    return layout is not Layout.COMBINATORIAL or math.comb(pattern.m, pattern.n) <= LARGEST_RANK


def group_bits(pattern: Sparsity, value_bits: int, layout: Layout) -> int:
    """Bits of one group: its N values of `value_bits` and their places."""
    return pattern.n * value_bits + index_bits(pattern, layout, value_bits)


def cheapest(pattern: Sparsity, value_bits: int) -> Layout:
    """The layout with the fewest bits; of equal ones the first of `Layout`."""
    fitting = [x for x in Layout if legal(pattern, x, value_bits)]
    return min(fitting, key=lambda layout: index_bits(pattern, layout, value_bits))


def ratio_to_dense(pattern: Sparsity, value_bits: int, layout: Layout) -> float:
    """Packed bits over dense bits of a weight."""
    return group_bits(pattern, value_bits, layout) / (pattern.m * value_bits)
