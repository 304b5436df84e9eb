"""Bytes that a layer moves: the one definition."""

from __future__ import annotations

import math


def bytes_moved(
    weights: int,
    input_elements: int,
    output_elements: int,
    weight_bits: int,
    input_bits: int,
    output_bits: int | None = None,
    kept_fraction: float = 1.0,
) -> int:
    """Bytes read and written by one execution of a layer when each tensor passes once.

    weights x weight bits x kept fraction + inputs x input bits + outputs x output bits, each tensor rounded up to
    whole bytes; `output_bits` defaults to `input_bits`. Biases, scales and sparsity indices are left out, and so is
    re-reading from a cache that is too small: a lower bound.
    """
    out_bits = input_bits if output_bits is None else output_bits
    tensors = (weights * kept_fraction * weight_bits, input_elements * input_bits, output_elements * out_bits)
    if min(tensors) < 0 or not 0.0 <= kept_fraction <= 1.0:
        raise ValueError(f"counts and bits cannot be negative, kept fraction is in 0..1 (got {kept_fraction})")
    return sum(math.ceil(bits / 8) for bits in tensors)
