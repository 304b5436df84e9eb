"""What pruning one layer alone costs: the mean square error that it brings to the network's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from bitwright.foundation.progress import track
from compress.graph import clone, set_tensor, tensor
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import WeightLayout
from compress.sparsity.one_shot import ScoreKind, input_norms, pruned_weight

Candidates = Mapping[str, tuple[WeightLayout, Sequence[Sparsity]]]
"""Weight name -> (its layout, the patterns to try)."""


def pruning_losses(graph: fx.GraphModule, candidates: Candidates, inputs: Tensor,
                   kind: ScoreKind = ScoreKind.INPUT_NORM,
                   batch: int = 8) -> dict[str, dict[Sparsity, float]]:  # fmt: skip
    """Output error of each weight under each of its patterns, all others dense. `inputs`: [N, C, H, W]."""
    norms = input_norms(graph, inputs, set(candidates)) if kind is ScoreKind.INPUT_NORM else {}
    module = clone(graph)
    parts = list(torch.split(inputs, batch))
    with torch.inference_mode():
        exact = [module(part) for part in parts]
    found: dict[str, dict[Sparsity, float]] = {}
    for name, (layout, patterns) in track(list(candidates.items()), "measuring what pruning each layer costs"):
        weight = tensor(graph, name)
        found[name] = {}
        for pattern in patterns:
            set_tensor(module, name, pruned_weight(weight, pattern, layout, norms.get(name)))
            with torch.inference_mode():
                error = sum(float((module(x) - y).double().square().sum()) for x, y in zip(parts, exact, strict=True))
            found[name][pattern] = error / sum(y.numel() for y in exact)
        set_tensor(module, name, weight.detach().clone())
    return found
