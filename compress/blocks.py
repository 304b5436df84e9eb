"""Blocks: consecutive pieces of a graph, cut where few tensors are alive, each a module of its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from bitwright.foundation.errors import UsageError
from compress.graph import is_layer, output_node
from compress.placement import is_activation


@dataclass(frozen=True)
class Block:
    """A run of activation nodes in execution order, by name: what enters it, what it computes and what leaves it."""

    name: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def split(graph_module: fx.GraphModule, layers: int | None) -> tuple[Block, ...]:
    """Cut a network into blocks of at most `layers` layers (None: one block, the whole network).

    Between half of `layers` and `layers`, the cut goes where the fewest activations are alive, as late as possible.
    A tensor that skips over blocks is an output of the block that makes it and an input of each block that reads it.
    """
    if layers is not None and layers < 1:
        raise UsageError(f"a block needs at least one layer, not {layers}")
    nodes = [n for n in graph_module.graph.nodes if n.op == "call_function" and is_activation(n)]
    total = sum(map(is_layer, nodes))
    most = total if layers is None else layers
    alive = _alive(nodes)
    blocks: list[Block] = []
    start = 0
    while start < len(nodes):
        end = _cut(nodes, alive, start, most)
        if not any(is_layer(n) for n in nodes[end:]):
            end = len(nodes)
        blocks.append(_block(nodes[start:end]))
        start = end
    return tuple(blocks)


def _alive(nodes: list[fx.Node]) -> list[int]:
    """How many activations still have readers after each node."""
    order = {node: i for i, node in enumerate(nodes)}
    last = [max((order[r] for r in readers(n) if r in order), default=len(nodes)) for n in nodes]
    return [sum(last[j] > i for j in range(i + 1)) for i in range(len(nodes))]


def _cut(nodes: list[fx.Node], alive: list[int], start: int, most: int) -> int:
    """The end (exclusive) of the block that begins at `start`."""
    count, best, fewest = 0, len(nodes), None
    for i in range(start, len(nodes)):
        count += is_layer(nodes[i])
        if count > most:
            return best
        if 2 * count >= most and (fewest is None or alive[i] <= fewest):
            best, fewest = i + 1, alive[i]
    return len(nodes)


def readers(node: fx.Node) -> set[fx.Node]:
    """Activations and the output node that read `node`, also through sizes and lists of tensors."""
    found: set[fx.Node] = set()
    for user in node.users:
        if user.op == "output" or is_activation(user):
            found.add(user)
        else:
            found |= readers(user)
    return found


def _sources(node: fx.Node) -> dict[fx.Node, None]:
    """Activations that `node` reads, also through sizes and lists of tensors; ordered."""
    found: dict[fx.Node, None] = {}
    for source in node.all_input_nodes:
        if is_activation(source):
            found[source] = None
        elif source.op != "get_attr":
            found.update(_sources(source))
    return found


def _block(nodes: list[fx.Node]) -> Block:
    inside = set(nodes)
    inputs = dict.fromkeys(s.name for n in nodes for s in _sources(n) if s not in inside)
    outputs = [n.name for n in nodes if readers(n) - inside]
    first = next((n for n in nodes if is_layer(n)), nodes[0])
    return Block(f"{first.name}..{nodes[-1].name}", tuple(n.name for n in nodes), tuple(inputs), tuple(outputs))


def extract(graph_module: fx.GraphModule, block: Block) -> fx.GraphModule:
    """A block as a module: `block.inputs` in order -> list of `block.outputs`. Shares tensors and submodules.

    `graph_module` may hold more nodes than the graph that was split (quantisers, say): what a block needs of them is
    copied into it.
    """
    nodes = {node.name: node for node in graph_module.graph.nodes}
    missing = [name for name in (*block.inputs, *block.nodes) if name not in nodes]
    if missing:
        raise UsageError(f"the graph has no node {missing[0]!r}; both graphs must come from the same transforms")
    graph = fx.Graph()
    copied = {nodes[name]: graph.placeholder(name) for name in block.inputs}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copied:
            for source in node.all_input_nodes:
                copy(source)
            copied[node] = graph.node_copy(node, copied.__getitem__)
        return copied[node]

    for name in block.nodes:
        copy(nodes[name])
    graph.output([copied[nodes[name]] for name in block.outputs])
    part = fx.GraphModule(graph_module, graph)
    part.graph.eliminate_dead_code()
    part.recompile()
    return part


def output_name(graph_module: fx.GraphModule) -> str:
    """Name of the node that the network returns."""
    result = output_node(graph_module).args[0]
    assert isinstance(result, fx.Node)
    return result.name
