"""The n-th largest of M values, for all groups at once: a selection network of whole-tensor minima and maxima.

Values of a group lie along dimension 0, so that each comparison is one vectorised operation over all groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor


def nth_largest(rows: Tensor, n: int) -> Tensor:
    """The n-th largest of `rows` [M, ...] along dimension 0, 1 <= n <= M; shape [...]. The rows are overwritten.

    NaN comes through to the result of its group.
    """
    count = rows.shape[0]
    if n == 1:
        return rows.amax(0)
    if n == count:
        return rows.amin(0)
    at, free = list(rows.unbind(0)), torch.empty_like(rows[0])
    for first, second, larger, smaller in _network(count, n):
        one, other = at[first], at[second]
        if larger:
            at[first] = torch.maximum(one, other, out=free)
            free = one
        if smaller:
            at[second] = torch.minimum(one, other, out=other)
    return at[n - 1].clone()


@lru_cache
def _network(count: int, n: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Of a sorting network what the n-th value depends on, in order, the larger value going to the first place.

    (first place, second place, whether the larger value is needed, whether the smaller one is).
    """
    needed = {n - 1}
    found = []
    for first, second in reversed(list(_sorting(count))):
        larger, smaller = first in needed, second in needed
        if larger or smaller:
            found.append((first, second, larger, smaller))
            needed |= {first, second}
    return tuple(reversed(found))


def _sorting(count: int) -> Iterator[tuple[int, int]]:
    """Batcher's merge exchange sort (1968) of any number of values: places to compare, in order."""
    half = 2 ** ((count - 1).bit_length() - 1)
    size = half
    while size:
        step, part, apart = half, 0, size
        while apart:
            yield from ((i, i + apart) for i in range(count - apart) if i & size == part)
            apart, step, part = step - size, step // 2, size
        size //= 2
