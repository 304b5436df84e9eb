"""Masks by their definition, for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.nm_pattern import Sparsity


def slow_rows(rows: Tensor, pattern: Sparsity) -> Tensor:
    """The definition, one group after another: sort by descending score, equal scores by channel."""
    kept = torch.zeros_like(rows, dtype=torch.bool)
    for row in range(rows.shape[0]):
        for start in range(0, rows.shape[1], pattern.m):
            group = rows[row, start : start + pattern.m].tolist()
            order = sorted(range(pattern.m), key=lambda i: (-group[i], i))
            for i in order[: pattern.n]:
                kept[row, start + i] = True
    return kept
