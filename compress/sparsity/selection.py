"""The n-th largest of M values, for all groups at once: a selection network of whole-tensor minima and maxima.

Values of a group lie along dimension 0, so that each comparison is one vectorised operation over all groups. Sorted
runs are merged as in Batcher's bitonic sorter (1968), and no run grows beyond what the n-th value can depend on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def nth_largest(values: Tensor, n: int) -> Tensor:
    """The n-th largest of `values` [M, ...] along dimension 0, 1 <= n <= M; shape [...]. NaN is not expected."""
    count = values.shape[0]
    if n == 1:
        return values.amax(0)
    if n == count:
        return values.amin(0)
    if n > count // 2 + 1:
        # The few smallest are found faster than the many largest.
        return -nth_largest(-values, count - n + 1)
    runs = _padded(values).unsqueeze(0)  # [run length, runs, ...]
    wanted = 2 ** math.ceil(math.log2(n))
    while runs.shape[1] > 1:
        half = runs.shape[1] // 2
        first, second = runs[:, :half], runs[:, half:].flip(0)
        largest = torch.maximum(first, second)
        if 2 * runs.shape[0] <= wanted:
            runs = torch.cat([_sorted(largest), _sorted(torch.minimum(first, second))])
        elif half == 1 and n == wanted:
            return largest[:, 0].amin(0)
        else:
            runs = _sorted(largest)
    return runs[n - 1, 0]


def _padded(values: Tensor) -> Tensor:
    """[M, ...] with rows of minus infinity up to a power of two."""
    missing = 2 ** math.ceil(math.log2(values.shape[0])) - values.shape[0]
    if not missing:
        return values
    return torch.cat([values, values.new_full((missing, *values.shape[1:]), -math.inf)])


def _sorted(bitonic: Tensor) -> Tensor:
    """A bitonic run [length, ...], length a power of two, in descending order."""
    length, rest = bitonic.shape[0], bitonic.shape[1:]
    step = length // 2
    while step:
        pairs = bitonic.reshape(length // (2 * step), 2, step, *rest)
        low, high = pairs[:, 0], pairs[:, 1]
        bitonic = torch.stack([torch.maximum(low, high), torch.minimum(low, high)], 1).reshape(length, *rest)
        step //= 2
    return bitonic
