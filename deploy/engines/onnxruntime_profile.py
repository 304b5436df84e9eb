"""Time of each executed node in ONNX Runtime, from the events that its profiler writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from hw_profiles.kernel import TensorType

PRECISIONS = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
    onnx.TensorProto.INT4: "int4",
    onnx.TensorProto.UINT4: "int4",
}
"""Our names of ONNX element types; those that are not here go by ONNX's own."""

CUT_US = 0.5
"""What cutting a time to whole microseconds takes off on average."""

_SUFFIX = "_kernel_time"
_BLOCKED = "com.microsoft.nchwc"
_NHWC = "nhwc"
_TYPES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "uint4": "int4"}


@dataclass
class CallEvents:
    """What the profiler told of one node: types of all its inputs and outputs, and ms of each inference."""

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    ms: list[float] = field(default_factory=list)


def call_events(path: Path, inferences: int) -> dict[str, CallEvents]:
    """The events of each node by its name, in the order of execution; nodes that did not run each time are left out."""
    found: dict[str, CallEvents] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") != "Node" or not event["name"].endswith(_SUFFIX):
            continue
        told = event["args"]
        name = event["name"].removesuffix(_SUFFIX)
        known = found.setdefault(name, CallEvents(_types(told["input_type_shape"]), _types(told["output_type_shape"])))
        known.ms.append((event["dur"] + CUT_US) / 1e3)
    return {name: events for name, events in found.items() if len(events.ms) == inferences}


def activations(
    graph: onnx.GraphProto, events: dict[str, CallEvents]
) -> dict[str, tuple[tuple[TensorType, ...], tuple[TensorType, ...]]]:
    """What each node reads and writes by its name, without constants; a node that reads only constants keeps them."""
    constant = {tensor.name for tensor in graph.initializer}
    types = {}
    for node in graph.node:
        read = [tensor for tensor in node.input if tensor]
        if constant.issuperset(read):
            constant.update(node.output)
        name = node.name or node.output[0]
        if name in events:
            seen, layout = events[name], _layout(node)
            if len(seen.inputs) == len(read):
                kept = [told for told, tensor in zip(seen.inputs, read, strict=True) if tensor not in constant]
            else:
                # Weights that were packed when the session was made are not told of; scales and biases are flat.
                kept = [told for told in seen.inputs if len(told.shape) > 2]
            inputs = kept or list(seen.inputs[:1])
            types[name] = (_laid_out(inputs, layout), _laid_out(seen.outputs, layout))
    return types


def _layout(node: onnx.NodeProto) -> str:
    """`nchwc` for kernels of the blocked layout, `nhwc` for those that keep channels last, else plain."""
    if node.domain == _BLOCKED:
        return "nchwc"
    return _NHWC if any(a.name == "channels_last" and a.i for a in node.attribute) else ""


def _laid_out(types: Sequence[TensorType], layout: str) -> tuple[TensorType, ...]:
    """The types with their layout; shapes are [N, C, H, W] in every layout."""
    if layout == _NHWC:
        types = [
            t.model_copy(update={"shape": (t.shape[0], t.shape[3], *t.shape[1:3])}) if len(t.shape) == 4 else t
            for t in types
        ]
    return tuple(t.model_copy(update={"layout": layout}) for t in types)


def _types(told: list[dict[str, list[int]]]) -> tuple[TensorType, ...]:
    return tuple(
        TensorType(shape=tuple(shape), dtype=_TYPES.get(name, name)) for entry in told for name, shape in entry.items()
    )
