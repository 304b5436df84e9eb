"""N:M pruning by the damage done to each layer's output, the weights that stay re-solved to make up for those that go.

Layers are pruned in execution order. Of each, second moments of its input patches are taken in the network that is
pruned so far, and the aim is its output in the dense network: so a layer also makes up for what was lost before it.
Which weights go is decided column by column with the inverse Hessian, as in SparseGPT (Frantar and Alistarh, 2023,
arXiv 2301.00774), there for N:M in groups of M columns: the least w^2 / [H^-1]_cc go, and the columns behind make up
for them (Optimal Brain Surgeon, Hassibi and Stork, 1992). SparseGPT stops there; here the weights that were kept and
the bias are then solved for together, by conjugate gradients in each row at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx

from bitwright.foundation.progress import track
from compress.graph import bias_name, clone, is_layer, set_tensor, tensor, weight_name
from compress.hessian import damping
from compress.input_patches import patches
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import LayerKind, WeightLayout
from compress.sparsity.masked_least_squares import solve
from compress.sparsity.one_shot import input_norms, pruned_weight
from compress.statistics import observe

POSITIONS = 2**17
"""Positions of a layer's input that its moments are taken over, at most: 32 crops of 64x64."""
DAMPING = 1e-3
"""Added to the Hessian, relative to its mean diagonal. SparseGPT has 1e-2, for far fewer samples per weight."""
VALUES = 2**26
"""Most values of one activation of all inputs together, 256 MiB: of two networks, all that is still read is kept."""
_CHUNK = 4


def prune(graph: fx.GraphModule, wanted: Mapping[str, tuple[Sparsity, WeightLayout]], inputs: Tensor) -> fx.GraphModule:
    """A copy of a float graph whose weights in `wanted`, by name, keep their patterns. `inputs`: [N, C, H, W].

    Transposed convolutions are pruned by magnitude times input norm: each phase of their output sums over kernel
    positions of its own. A weight that several calls read is solved for the first of them.
    """
    result = clone(graph)
    norms = input_norms(graph, inputs, {n for n, (_, layout) in wanted.items() if _by_norm(layout)})
    chosen = _spread(inputs, VALUES // _largest(graph, inputs[:1]))
    dense, sparse = _Stepper(graph, chosen), _Stepper(result, chosen)
    done: set[str] = set()
    pairs = list(zip(graph.graph.nodes, result.graph.nodes, strict=True))
    with torch.inference_mode():
        for node, twin in track(pairs, "pruning layer by layer"):
            name = weight_name(node) if is_layer(node) else ""
            if name in wanted and name not in done:
                done.add(name)
                pattern, layout = wanted[name]
                if _by_norm(layout):
                    sparse.put(twin, 1, pruned_weight(tensor(graph, name), pattern, layout, norms[name]))
                else:
                    values = _solved(graph, node, pattern, layout, dense.value(node), sparse.value(twin))
                    for place, value in enumerate(values, 1):
                        sparse.put(twin, place, value)
            dense.step(node)
            sparse.step(twin)
    return result


def _largest(graph: fx.GraphModule, example: Tensor) -> int:
    """Values of the largest activation for one input."""
    sizes = [example.numel()]
    names = {node.name for node in graph.graph.nodes if node.op == "call_function"}
    observe(graph, example, names, lambda _, value: sizes.append(value.numel()), "measuring activations")
    return max(sizes)


def _spread(values: Tensor, count: int) -> Tensor:
    """At most `count` of the samples, at least one, evenly spread."""
    if count >= len(values):
        return values
    return values[torch.linspace(0, len(values) - 1, max(1, count)).long()]


def _by_norm(layout: WeightLayout) -> bool:
    return layout.kind is LayerKind.CONV_TRANSPOSE


class _Stepper(fx.Interpreter):
    """A graph that is run node by node on one input, and whose weights may change ahead of their layer."""

    def __init__(self, graph: fx.GraphModule, x: Tensor) -> None:
        super().__init__(graph)
        self.graph_module, self.args_iter = graph, iter([x])

    def step(self, node: fx.Node) -> None:
        """Run one node, and forget what no later one reads."""
        if node.op == "output":
            return
        self.env[node] = self.run_node(node)
        for read in self.user_to_last_uses.get(node, ()):
            del self.env[read]

    def value(self, layer: fx.Node) -> Tensor:
        """What a layer reads."""
        source = layer.args[0]
        assert isinstance(source, fx.Node)
        value = self.env[source]
        assert isinstance(value, Tensor)
        return value

    def put(self, layer: fx.Node, place: int, value: Tensor) -> None:
        """Replace a layer's weight (1) or bias (2)."""
        source = layer.args[place]
        assert isinstance(source, fx.Node)
        set_tensor(self.graph_module, str(source.target), value.clone())
        for read in self.env:
            if read.op == "get_attr" and read.target == source.target:
                self.env[read] = value


def _solved(
    graph: fx.GraphModule, node: fx.Node, pattern: Sparsity, layout: WeightLayout, dense: Tensor, sparse: Tensor
) -> tuple[Tensor, ...]:
    """The pruned weight, and the bias where there is one, of a layer that reads `dense` and is to read `sparse`."""
    weight = tensor(graph, weight_name(node)).detach()
    name = bias_name(node)
    bias = None if name is None else tensor(graph, name).detach().double()
    rows = weight.double().reshape(layout.groups, weight.shape[0] // layout.groups, -1)
    per_sample = dense.numel() // (len(dense) * weight.shape[1] * layout.groups)
    dense, sparse = (_spread(value, POSITIONS // per_sample) for value in (dense, sparse))
    found, biases = [], []
    for group in range(layout.groups):
        parts = (
            torch.stack([patches(node, weight, x, layout.groups, group) for x in pair])
            for pair in _chunks(dense, sparse)
        )
        hessian, cross = _moments(parts, bias is not None)
        aim = rows[group]
        if bias is not None:
            own = bias.reshape(layout.groups, -1)[group]
            aim = torch.cat([aim, own[:, None]], 1)
        # The bias stays: its column is behind those that can go.
        solved = solve(aim @ cross, hessian, pattern, weight.shape[1])
        found.append(solved[:, : rows.shape[2]])
        biases.append(solved[:, rows.shape[2] :])
    made = torch.cat(found).reshape(weight.shape).to(weight.dtype)
    if bias is None:
        return (made,)
    return made, torch.cat(biases).flatten().to(weight.dtype)


def _chunks(dense: Tensor, sparse: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Both networks' inputs of a few samples at a time."""
    return zip(torch.split(dense, _CHUNK), torch.split(sparse, _CHUNK), strict=True)


def _moments(parts: Iterable[Tensor], constant: bool) -> tuple[Tensor, Tensor]:
    """X' X'^T and X X'^T of dense X and sparse X', float64, [K, K]; with `constant` a last row of ones in both."""
    hessian = cross = torch.zeros((), dtype=torch.float64)
    for pair in parts:
        if constant:
            pair = torch.cat([pair, pair.new_ones(2, 1, pair.shape[2])], 1)
        hessian, cross = hessian + (pair[1] @ pair[1].T).double(), cross + (pair[0] @ pair[1].T).double()
    added = damping(hessian, DAMPING)
    # Damped on both sides: the dense weights, not zero, are what the damping draws to.
    return hessian + added, cross + added
