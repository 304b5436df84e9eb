"""prepare: every transform that keeps a network's function and that a compression begins with, in their order."""

from __future__ import annotations

from torch import fx

from compress.biases import give_biases
from compress.folding import fold
from compress.graph import layer_nodes, weight_name
from compress.residuals import absorb_residuals
from compress.shuffle import move_activation_before_shuffle


def prepare(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy with normalisations folded, residual sums absorbed, activations before shuffles, and a bias per layer."""
    folded, _ = fold(graph_module)
    absorbed, _ = absorb_residuals(folded)
    result, _ = move_activation_before_shuffle(absorbed)
    give_biases(result, {weight_name(node) for _, node in layer_nodes(result)})
    return result
