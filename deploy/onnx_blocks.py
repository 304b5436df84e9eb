"""Weights in blocks in an ONNX file: 4-bit initialisers behind a DequantizeLinear that has a scale for each block.

torch exports bytes, and its exporter writes an older operator set than blocks need, so that the operator that stands
for them there is replaced in the file.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCKS_DOMAIN, BLOCKS = "bitwright", "DequantizeBlocks"
"""The operator that stands for a weight in blocks until then: integers, scales, and the attribute `block`."""

OPSET = 21
"""The first whose DequantizeLinear has blocks and 4-bit integers."""


def write_blocks(file: onnx.ModelProto) -> None:
    """Write each weight in blocks as the standard has it; a file without any is left as it is."""
    tensors = {tensor.name: tensor for tensor in file.graph.initializer}
    for node in file.graph.node:
        if node.domain == BLOCKS_DOMAIN and node.op_type == BLOCKS:
            integers = tensors[node.input[0]]
            if integers.data_type != TensorProto.INT4:
                integers.CopyFrom(_packed(integers))
            made = helper.make_node(
                "DequantizeLinear", list(node.input), list(node.output), node.name, axis=1,
                block_size=node.attribute[0].i,
            )  # fmt: skip
            node.CopyFrom(made)
    for entry in [entry for entry in file.opset_import if entry.domain == BLOCKS_DOMAIN]:
        file.opset_import.remove(entry)


def _packed(integers: onnx.TensorProto) -> onnx.TensorProto:
    """The same 4-bit integers with two of them in a byte, the first in its lower half."""
    values = numpy_helper.to_array(integers)
    halves = np.append(values.flatten(), np.zeros(values.size % 2, values.dtype)).view(np.uint8) & 15
    content = (halves[0::2] | halves[1::2] << 4).tobytes()
    return helper.make_tensor(integers.name, TensorProto.INT4, values.shape, content, raw=True)
