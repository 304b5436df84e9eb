"""Repairs of Q/DQ files from other exporters, without which runtimes silently leave the integer kernels.

Brevitas keeps the clamp of a constant weight as a Clip in front of DequantizeLinear: OpenVINO then runs every
convolution in float. Older exporters list initialisers among the graph's inputs: ONNX Runtime then may not fold them.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from pydantic import BaseModel, ConfigDict


class Repairs(BaseModel):
    """What was changed: names of weights whose Clip was folded, and of initialisers that were inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folded_clips: tuple[str, ...] = ()
    hidden_inputs: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the file differs from what it was."""
        return bool(self.folded_clips or self.hidden_inputs)


def repair(file: onnx.ModelProto) -> Repairs:
    """Repair `file` in place; the function that it computes stays exactly the same."""
    return Repairs(hidden_inputs=_hide_initializers(file.graph), folded_clips=_fold_clips(file.graph))


def _hide_initializers(graph: onnx.GraphProto) -> tuple[str, ...]:
    constants = {initializer.name for initializer in graph.initializer}
    hidden = tuple(value.name for value in graph.input if value.name in constants)
    for value in [value for value in graph.input if value.name in constants]:
        graph.input.remove(value)
    return hidden


def _fold_clips(graph: onnx.GraphProto) -> tuple[str, ...]:
    constants = {initializer.name: initializer for initializer in graph.initializer}
    outputs = {value.name for value in graph.output}
    folded = []
    for node in [n for n in graph.node if n.op_type == "Clip"]:
        names = [name for name in node.input if name]
        if not names or any(name not in constants for name in names) or node.output[0] in outputs:
            continue
        arrays = [numpy_helper.to_array(constants[name]) for name in names]
        low = arrays[1] if len(node.input) > 1 and node.input[1] else None
        high = arrays[-1] if len(node.input) > 2 and node.input[2] else None
        clipped = np.clip(arrays[0], low, high).astype(arrays[0].dtype)
        graph.initializer.append(numpy_helper.from_array(clipped, node.output[0]))
        graph.node.remove(node)
        folded.append(names[0])
    used = {name for node in graph.node for name in node.input} | outputs
    for initializer in [i for i in graph.initializer if i.name not in used]:
        graph.initializer.remove(initializer)
    return tuple(folded)
