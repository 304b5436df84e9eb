"""Operators that bring values to a common scale: norms over the last dimensions, and softmax."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from torch.nn import functional

from deploy.onnx_attributes import number
from deploy.torch_aot.values import Value, Values, in_type


def layer_normalization(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """LayerNormalization over the dimensions from `axis` on, in float32."""
    x = in_type(values.tensor(node), torch.float32)
    shape = x.shape[int(number(node, "axis", -1)) :]
    bias = values.tensor(node, 2) if len(node.input) > 2 and node.input[2] else None
    return [functional.layer_norm(x, shape, values.tensor(node, 1), bias, number(node, "epsilon", 1e-5))]


def softmax(values: Values, node: onnx.NodeProto) -> Sequence[Value]:
    """Softmax along one dimension, in float32."""
    return [torch.softmax(in_type(values.tensor(node), torch.float32), int(number(node, "axis", -1)))]
