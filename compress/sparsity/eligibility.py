"""Which layers of a network may carry a pattern, which get a shorter one, and why the others stay dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import fx

from compress.graph import input_node, is_layer, layer_nodes, output_node
from compress.layer_table import LayerRow, LayerTable
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import LayerKind, WeightLayout
from hw_profiles import Op

SMALLEST_SHARE = 0.005
"""Layers with a smaller share of the MACs stay dense: nothing is gained from them."""

IMAGE_CHANNELS = frozenset({1, 3})


@dataclass(frozen=True)
class Decision:
    """What is decided for one layer: its pattern, or None with the reason; a warning where the pattern is unusual."""

    layer: str
    pattern: Sparsity | None
    reason: str = ""
    warning: str = ""


def layout_of_row(row: LayerRow) -> WeightLayout:
    """How the weight of a layer call lies."""
    kinds = {Op.LINEAR: LayerKind.LINEAR, Op.CONVTRANSPOSE: LayerKind.CONV_TRANSPOSE}
    return WeightLayout(kinds.get(row.op, LayerKind.CONV), row.groups)


def reduction_length(row: LayerRow) -> int:
    """Input channels that one output of the layer sums over, C / g."""
    return row.input_shape[-1] if row.op is Op.LINEAR else row.input_shape[1] // row.groups


def fitting(pattern: Sparsity, channels: int) -> Sparsity | None:
    """The pattern itself, or its halving with the longest groups that divide `channels`; None where none does."""
    candidate: Sparsity | None = pattern
    while candidate is not None and channels % candidate.m:
        candidate = candidate.halved()
    return candidate


def decide(graph: fx.GraphModule, table: LayerTable, pattern: Sparsity, *, dense: Iterable[str] = (),
           fill: bool = False) -> dict[str, Decision]:  # fmt: skip
    """A decision for each layer call, in network order; calls that share a weight share the decision.

    `dense`: layers that the caller keeps dense. Where M does not divide the channels: with `fill`, for a runtime that
    fills them up with zeros or has no kernel that reads groups, the last group of each row is short; else they take the
    longest M / 2^j that does, or stay dense. The layers next to the image and to the output stay dense.
    """
    first, last = boundary_layers(graph)
    macs: dict[str, int] = {}
    for row in table.rows:
        macs[row.weight] = macs.get(row.weight, 0) + row.macs
    by_weight: dict[str, list[LayerRow]] = {}
    for row in table.rows:
        by_weight.setdefault(row.weight, []).append(row)
    listed, decided = set(dense), {}
    for weight, rows in by_weight.items():
        names = {row.name for row in rows}
        share = macs[weight] / max(1, table.macs)
        found = _decision(rows[0], pattern, fill)
        if names & listed:
            found = Decision("", None, "kept dense by request")
        elif found.pattern is not None and names & last:
            found = Decision("", None, "last layer before the output")
        elif found.pattern is not None and names & first and reduction_length(rows[0]) in IMAGE_CHANNELS:
            found = Decision("", None, "first layer, reads the image")
        elif found.pattern is not None and share < SMALLEST_SHARE:
            found = Decision("", None, f"{100 * share:.2g} % of the MACs, less than {100 * SMALLEST_SHARE:g} %")
        decided[weight] = found
    return {
        row.name: Decision(row.name, found.pattern, found.reason, found.warning)
        for row in table.rows
        for found in (decided[row.weight],)
    }


def _decision(row: LayerRow, pattern: Sparsity, fill: bool) -> Decision:
    channels = reduction_length(row)
    if channels == 1:
        return Decision(row.name, None, "one input channel to each output (depthwise): there is nothing to choose from")
    if fill and channels > pattern.m and channels % pattern.m:
        warning = f"the last of its groups of {pattern.m} has {channels % pattern.m} channels: there are {channels}"
        return Decision(row.name, pattern, "", warning)
    found = fitting(pattern, channels)
    if found is None:
        return Decision(row.name, None, f"{channels} input channels are not divided by groups of {pattern.m}")
    if found != pattern:
        warning = f"{found} in place of {pattern}: {channels} input channels are not divided by {pattern.m}"
        return Decision(row.name, found, "", warning)
    if channels == pattern.m:
        return Decision(row.name, found, "", f"a single group of {pattern.m} to each row")
    return Decision(row.name, found)


def boundary_layers(graph: fx.GraphModule) -> tuple[set[str], set[str]]:
    """Names of the layers that no layer comes before, and of those that no layer comes behind."""
    names = {node: name for name, node in layer_nodes(graph)}
    first = _reached([input_node(graph)], names, lambda node: list(node.users))
    last = _reached([output_node(graph)], names, lambda node: list(node.all_input_nodes))
    return first, last


def _reached(
    start: list[fx.Node], names: dict[fx.Node, str], neighbours: Callable[[fx.Node], list[fx.Node]]
) -> set[str]:
    """Layers that a walk from `start` meets first on each path."""
    found: set[str] = set()
    seen: set[fx.Node] = set()
    todo = list(start)
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_layer(node):
            found.add(names[node])
            continue
        todo.extend(neighbours(node))
    return found
