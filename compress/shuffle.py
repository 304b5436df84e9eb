"""Moving activations in front of a pixel shuffle, where runtimes fuse them into the convolution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from compress.graph import aten, clone, rebuild, tensor

SINGLE_INPUT = {
    aten.relu.default, aten.leaky_relu.default, aten.sigmoid.default, aten.tanh.default, aten.clamp.default,
    aten.hardtanh.default, aten.relu6.default,
}  # fmt: skip


@dataclass(frozen=True)
class ShuffleRecord:
    """Names of the activations that were moved in front of a pixel shuffle."""

    moved: tuple[str, ...]


def move_activation_before_shuffle(graph_module: fx.GraphModule) -> tuple[fx.GraphModule, ShuffleRecord]:
    """A copy in which pixel_shuffle -> activation is activation -> pixel_shuffle; exactly the same function."""
    result = clone(graph_module)
    moved: list[str] = []
    for shuffle in [n for n in result.graph.nodes if n.target is aten.pixel_shuffle.default]:
        while len(shuffle.users) == 1 and _elementwise(result, next(iter(shuffle.users))):
            activation = next(iter(shuffle.users))
            source = shuffle.args[0]
            assert isinstance(source, fx.Node)
            with result.graph.inserting_before(shuffle):
                early = result.graph.create_node(
                    activation.op, activation.target, (source, *activation.args[1:]), activation.kwargs
                )
            early.meta = {**activation.meta, "val": source.meta["val"]}
            shuffle.args = (early, *shuffle.args[1:])
            activation.replace_all_uses_with(shuffle)
            result.graph.erase_node(activation)
            moved.append(activation.name)
    rebuild(result)
    return result, ShuffleRecord(tuple(moved))


def _elementwise(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node acts on every value alike; a PReLU does with a single slope."""
    if node.target is aten.prelu.default:
        slope = node.args[1]
        if not isinstance(slope, fx.Node) or slope.op != "get_attr":
            return False
        return tensor(graph_module, str(slope.target)).numel() == 1
    return node.target in SINGLE_INPUT
