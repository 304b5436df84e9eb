"""Which scores are the n largest of their groups, where they lie; of equal ones the first."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from compress.sparsity.selection import nth_largest

BLOCK = 2**18
"""About how many scores a processor compares at once: what lies in between stays in its cache."""
_DEVICE_BLOCK = 2**24
"""The same where each operation has to be launched."""
_EXACT = 2**24
"""Ones that float32 can count."""


def largest(scores: Tensor, n: int, *, magnitudes: bool = False) -> Tensor:
    """True for the `n` largest along M of each group in `scores` [runs, M, positions]; of equal ones for the first.

    `magnitudes`: their absolute values count. UsageError for NaN.
    """
    total, m, positions = scores.shape
    kept = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    blocks = round(scores.numel() / (BLOCK if scores.device.type == "cpu" else _DEVICE_BLOCK))
    runs = max(1, math.ceil(total / max(1, blocks)))
    for start in range(0, total, runs):
        block = scores[start : start + runs]
        # Members of a group along dimension 0: each comparison is one vectorised operation over all groups.
        rows = scores.new_empty(m, block.shape[0], positions)
        if magnitudes:
            block = block.abs()
            # A second time changes nothing, and is faster than a copy.
            torch.abs(block.movedim(1, 0), out=rows)
        else:
            rows.copy_(block.movedim(1, 0))
        limits = nth_largest(rows.view(m, block.shape[0] * positions), n)
        # The sum tells at a fraction of the cost whether there may be a NaN.
        if math.isnan(limits.sum()) and bool(torch.isnan(limits).any()):
            raise UsageError("scores hold NaN")
        # As numbers, since comparisons with bool results are not vectorised. The rows have served.
        passed = torch.ge(block, limits.view(block.shape[0], 1, positions), out=rows.view(block.shape))
        if int(passed.sum(dtype=None if passed.numel() <= _EXACT else torch.float64)) != n * limits.numel():
            # Where the n-th score occurs more than once, too many pass.
            _break_ties(block, passed, n)
        kept[start : start + runs] = passed
    return kept


def _break_ties(scores: Tensor, passed: Tensor, n: int) -> None:
    """Let the first `n` in stable descending order pass, 1 for yes, where not `n` of a group did."""
    runs, positions = (passed.sum(1) != n).nonzero(as_tuple=True)
    tied = scores[runs, :, positions]
    order = torch.sort(tied, dim=1, descending=True, stable=True).indices
    passed[runs, :, positions] = torch.zeros_like(tied).scatter_(1, order[:, :n], 1.0)
