"""Time of each executed node in OpenVINO, from its performance counters.

The counters give the mean over all inferences since the network was compiled, cut to whole microseconds, of times that
were cut to whole microseconds themselves. The mean of a block is therefore the difference of two sums, and half a
microsecond, what a cut takes off on average, is added back for either cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hw_profiles.kernel import TensorType

PRECISIONS = {
    "u8": "int8", "i8": "int8", "u4": "int4", "i4": "int4", "f32": "fp32", "f16": "fp16", "i32": "int32",
    "i64": "int64", "boolean": "bool",
}  # fmt: skip
"""Element types by OpenVINO's names; those that are not here have the same name."""

CUT_US = 0.5


def node_facts(node: Any) -> dict[str, str]:
    """What the runtime model tells of a node, by OpenVINO's own keys."""
    return {key: str(value.value) for key, value in node.get_rt_info().items()}


def block_means(request: Any, x: np.ndarray, warm_up: int, runs: int, blocks: int) -> Iterator[dict[str, float]]:
    """Mean ms of each executed node over each block of `runs` inferences, by node name."""
    _infer(request, x, 1)
    # A node counts as executed when its mean is a microsecond or more, as that of a first, cold inference is.
    executed = [info.node_name for info in request.profiling_info if info.status == info.Status.EXECUTED]
    before, done = dict.fromkeys(executed, 0.0), 0
    if warm_up:
        _infer(request, x, warm_up - 1)
        before, done = _sums(request, warm_up, executed), warm_up
    for block in range(blocks):
        _infer(request, x, runs - (block == 0 and warm_up == 0))
        done += runs
        after = _sums(request, done, executed)
        yield {name: max((after[name] - before[name]) / runs + CUT_US, CUT_US) / 1e3 for name in executed}
        before = after


def _infer(request: Any, x: np.ndarray, times: int) -> None:
    for _ in range(times):
        request.infer([x], share_inputs=True)


def _sums(request: Any, inferences: int, executed: list[str]) -> dict[str, float]:
    """Microseconds of all inferences so far, for each node that is executed."""
    means = {info.node_name: info.real_time.total_seconds() * 1e6 for info in request.profiling_info}
    return {name: (means[name] + CUT_US) * inferences for name in executed}


def activations(network: Any, executed: Mapping[str, float]) -> Iterator[tuple[Any, tuple[TensorType, ...]]]:
    """Each executed node of a runtime model in order, with the types of the tensors it reads that are not constant."""
    constant: set[str] = set()
    for node in network.get_ordered_ops():
        sources = [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()]
        name = node.get_friendly_name()
        kind = node_facts(node)["layerType"]
        if kind == "Const" or (sources and constant.issuperset(sources)):
            constant.add(name)
        elif name in executed:
            read = [port.get_source_output() for port in node.inputs()]
            kept = [port for port, source in zip(read, sources, strict=True) if source not in constant]
            yield node, tuple(_type(port.get_node(), port) for port in kept)


def written(node: Any) -> tuple[TensorType, ...]:
    """Types of the tensors that a node writes."""
    return tuple(_type(node, port) for port in node.outputs())


def _type(node: Any, port: Any) -> TensorType:
    layouts = node_facts(node)["outputLayouts"].split(",")
    index = port.get_index()
    name = port.get_element_type().to_string()
    return TensorType(
        shape=tuple(port.get_shape()),
        dtype=PRECISIONS.get(name, name),
        layout=layouts[index] if index < len(layouts) else layouts[-1],
    )
