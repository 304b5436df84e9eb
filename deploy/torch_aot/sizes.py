"""What an exported graph computes of sizes: arrays of whole numbers, some of them symbols while it is traced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch

from deploy.onnx_attributes import attributes, number
from deploy.torch_aot.values import Value, Values, in_type, unsupported


def shape(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Shape, or a part of it."""
    found = attributes(node)
    start, end = (found.get(name) for name in ("start", "end"))
    whole = list(values.tensor(node).shape)
    part = whole[slice(None if start is None else int(str(start)), None if end is None else int(str(end)))]
    made = np.empty(len(part), dtype=object)
    made[:] = part
    return [made]


def gather(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Gather from a list of sizes."""
    source, index = (values.found[name] for name in node.input)
    if not isinstance(source, np.ndarray) or not isinstance(index, np.ndarray) or number(node, "axis", 0) != 0:
        raise unsupported(node, "only from a list of sizes")
    return [np.asarray(source[index.astype(np.int64)], dtype=object)]


def cast(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Cast between whole numbers, or from real to real."""
    source = values.found[node.input[0]]
    wanted = int(number(node, "to", 0))
    whole = wanted in {onnx.TensorProto.INT32, onnx.TensorProto.INT64}
    if isinstance(source, np.ndarray) != whole or (not whole and wanted != onnx.TensorProto.FLOAT):
        raise unsupported(node, "only between whole numbers, or to float32")
    return [source if isinstance(source, np.ndarray) else in_type(values.tensor(node), torch.float32)]
