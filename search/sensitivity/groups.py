"""Groups of layers that a search may move together, found in the structure of a network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from torch import fx

from compress.graph import is_layer, layer_nodes, weight_name
from compress.placement import is_activation


class GroupKind(StrEnum):
    """Why layers belong together."""

    WEIGHT = "weight"
    """Calls of one weight: they cannot differ."""
    INPUT = "input"
    """Layers that read the same tensor: one conversion serves them all."""
    BLOCK = "block"
    """Layers whose names share a prefix: a block as its author wrote it."""
    PATTERN = "pattern"
    """The same layer of every repetition of a block."""
    NETWORK = "network"
    """Everything."""


class Group(BaseModel):
    """Layers in execution order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: GroupKind
    layers: tuple[str, ...] = Field(min_length=1)


def ties(graph_module: fx.GraphModule) -> tuple[Group, ...]:
    """Calls that share a weight, which have one precision or none."""
    calls: dict[str, list[str]] = {}
    for name, node in layer_nodes(graph_module):
        calls.setdefault(weight_name(node), []).append(name)
    return tuple(
        Group(name=f"weight {weight}", kind=GroupKind.WEIGHT, layers=tuple(names))
        for weight, names in calls.items()
        if len(names) > 1
    )


def groups(graph_module: fx.GraphModule) -> tuple[Group, ...]:
    """All groups of two layers or more; where several hold the same layers, the first kind counts."""
    calls = list(layer_nodes(graph_module))
    names = [name for name, _ in calls]
    inputs: dict[str, list[str]] = {}
    for name, node in calls:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        inputs.setdefault(source.name, []).append(name)
    blocks: dict[str, list[str]] = {}
    patterns: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            blocks.setdefault(".".join(parts[:depth]), []).append(name)
        if len(parts) > 1:
            patterns.setdefault(re.sub(r"\d+", "*", parts[0]) + "." + ".".join(parts[1:]), []).append(name)
    found = list(ties(graph_module))
    seen = {group.layers for group in found}
    for kind, members in (
        (GroupKind.INPUT, inputs),
        (GroupKind.BLOCK, blocks),
        (GroupKind.PATTERN, patterns),
        (GroupKind.NETWORK, {"network": names}),
    ):
        for key, layers in members.items():
            if len(layers) > 1 and tuple(layers) not in seen:
                seen.add(tuple(layers))
                label = key if kind is GroupKind.NETWORK else f"{kind} {key}"
                found.append(Group(name=label, kind=kind, layers=tuple(layers)))
    return tuple(found)


def partition(graph_module: fx.GraphModule) -> dict[str, str]:
    """One block per layer: the outermost prefix of its name, or its whole name where it has none."""
    return {name: name.split(".")[0] for name, _ in layer_nodes(graph_module)}


def edges(graph_module: fx.GraphModule) -> tuple[tuple[str, str], ...]:
    """(layer, layer that reads its result), also through operators that are no layers; in execution order."""
    names = {node: name for name, node in layer_nodes(graph_module)}
    behind: dict[fx.Node, dict[str, None]] = {}
    found: dict[tuple[str, str], None] = {}
    for node in graph_module.graph.nodes:
        sources = _merged(behind, node.all_input_nodes)
        if is_layer(node):
            found.update(dict.fromkeys((source, names[node]) for source in sources))
            behind[node] = {names[node]: None}
        elif is_activation(node) or node.op == "call_function":
            behind[node] = sources
    return tuple(found)


def _merged(behind: Mapping[fx.Node, dict[str, None]], nodes: list[fx.Node]) -> dict[str, None]:
    return {name: None for node in nodes for name in behind.get(node, {})}
