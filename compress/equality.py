"""Proof that a graph transform preserved the function."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from bitwright.foundation.errors import GraphError


def largest_difference(before: fx.GraphModule, after: fx.GraphModule, inputs: Tensor) -> float:
    """Largest absolute output difference on `inputs` ([N, C, H, W]), relative to the largest output magnitude."""
    with torch.inference_mode():
        expected, found = before(inputs), after(inputs)
    if expected.shape != found.shape:
        raise GraphError(f"a graph transform changed the output shape {tuple(expected.shape)} to {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        raise GraphError("a graph transform made outputs that are not finite")
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-30))


def prove_equal(before: fx.GraphModule, after: fx.GraphModule, inputs: Tensor, tolerance: float = 1e-4) -> float:
    """The relative difference of two graphs on `inputs`; GraphError where it exceeds `tolerance`."""
    difference = largest_difference(before, after, inputs)
    if difference > tolerance:
        raise GraphError(
            f"a graph transform changed the outputs by {difference:.2g} of their range (allowed {tolerance:.2g}); "
            "report this network, and turn the transform off meanwhile"
        )
    return difference
