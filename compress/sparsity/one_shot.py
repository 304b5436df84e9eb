"""One-shot pruning of a captured network: masks by a score, weights outside them set to zero, nothing trained."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import torch
from torch import Tensor, fx

from compress.graph import aten, clone, layer_nodes, set_tensor, tensor, weight_name
from compress.layer_table import LayerTable
from compress.nm_pattern import Sparsity
from compress.sparsity.eligibility import layout_of_row
from compress.sparsity.layouts import WeightLayout
from compress.sparsity.masks import Scored, nm_masks
from compress.sparsity.scores import input_norm, magnitude
from compress.statistics import observe


class ScoreKind(StrEnum):
    """What decides which weights are kept."""

    MAGNITUDE = "magnitude"
    """|w|."""
    INPUT_NORM = "input_norm"
    """|w| times the norm of the input channel on calibration data; does not depend on how scales are balanced."""


def sparse_weights(
    graph: fx.GraphModule, table: LayerTable, patterns: Mapping[str, Sparsity | None]
) -> dict[str, tuple[Sparsity, WeightLayout]]:
    """The pattern and layout of each weight that `patterns`, by layer call, prunes; keyed by the weight's name."""
    rows = {row.name: row for row in table.rows}
    found = {}
    for name, node in layer_nodes(graph):
        pattern = patterns.get(name)
        if pattern is not None and not pattern.dense:
            found[weight_name(node)] = (pattern, layout_of_row(rows[name]))
    return found


def pruned(graph: fx.GraphModule, table: LayerTable, patterns: Mapping[str, Sparsity | None], inputs: Tensor,
           kind: ScoreKind = ScoreKind.INPUT_NORM) -> fx.GraphModule:  # fmt: skip
    """A copy of a float graph whose layers keep their patterns. `inputs`: calibration data [N, C, H, W]."""
    wanted = sparse_weights(graph, table, patterns)
    norms = input_norms(graph, inputs, set(wanted)) if kind is ScoreKind.INPUT_NORM else {}
    result = clone(graph)
    by_pattern: dict[Sparsity, dict[str, Scored]] = {}
    for name, (pattern, layout) in wanted.items():
        weight = tensor(graph, name)
        scores = magnitude(weight) if not norms else input_norm(weight, norms[name], layout)
        by_pattern.setdefault(pattern, {})[name] = Scored(scores, layout)
    for pattern, layers in by_pattern.items():
        for name, mask in nm_masks(layers, pattern).items():
            set_tensor(result, name, tensor(graph, name).detach().masked_fill(~mask, 0.0))
    return result


def pruned_weight(weight: Tensor, pattern: Sparsity, layout: WeightLayout, norms: Tensor | None = None) -> Tensor:
    """A copy of one weight that keeps its pattern, by magnitude or, with `norms` [C], by magnitude times input norm."""
    scores = magnitude(weight) if norms is None else input_norm(weight, norms, layout)
    return weight.detach().masked_fill(~nm_masks({"": Scored(scores, layout)}, pattern)[""], 0.0)


def input_norms(graph: fx.GraphModule, inputs: Tensor, weights: set[str]) -> dict[str, Tensor]:
    """L2 norm of each input channel, [C] in float32, over all calls of the layers that read the named weights."""
    readers: dict[str, list[tuple[str, bool]]] = {}
    for _, node in layer_nodes(graph):
        source = node.args[0]
        if weight_name(node) in weights and isinstance(source, fx.Node):
            readers.setdefault(source.name, []).append((weight_name(node), node.target is aten.linear.default))
    sums: dict[str, Tensor] = {}

    def see(name: str, value: Tensor) -> None:
        for weight, last in readers[name]:
            channels = value.flatten(0, -2).T if last else value.transpose(0, 1).flatten(1)
            energy = channels.double().square().sum(1)
            sums[weight] = sums.get(weight, torch.zeros(())) + energy

    observe(graph, inputs, set(readers), see, "measuring input norms")
    return {name: total.sqrt().float() for name, total in sums.items()}
