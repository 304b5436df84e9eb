"""Padding of windows: TFLite knows none and its own SAME; anything else becomes an operator in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx

from deploy.onnx_attributes import numbers, text
from deploy.onnx_layers import node_key
from deploy.tflite.flatbuffer import Scales
from deploy.tflite.lowering import JOIN, Lowering
from deploy.tflite.values import INT8_MIN, Quant, unsupported


class Windows(NamedTuple):
    """How windows move over an activation: each (height, width)."""

    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int] = (1, 1)

    @staticmethod
    def of(node: onnx.NodeProto, size: Sequence[int]) -> Windows:
        """Read from a node's attributes."""
        strides, dilations = numbers(node, "strides", (1, 1)), numbers(node, "dilations", (1, 1))
        if len(size) != 2:
            raise unsupported(node, f"only windows in two dimensions, not {len(size)}")
        return Windows((size[0], size[1]), (strides[0], strides[1]), (dilations[0], dilations[1]))

    def fitting(self, sizes: Sequence[int]) -> tuple[int, int]:
        """How many windows fit in an activation of these sizes, padding included."""
        reach = [d * (k - 1) + 1 for k, d in zip(self.size, self.dilations, strict=True)]
        down, across = ((n - r) // s + 1 for n, r, s in zip(sizes, reach, self.strides, strict=True))
        return down, across

    def same(self, sizes: Sequence[int]) -> tuple[int, int, int, int]:
        """What SAME adds to an activation without padding: top, left, bottom, right."""
        before, after = [], []
        for n, k, s, d in zip(sizes, self.size, self.strides, self.dilations, strict=True):
            total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        return before[0], before[1], after[0], after[1]


class Padded(NamedTuple):
    """The tensor that windows move over, the padding that their operator is told, and how many windows there are."""

    tensor: int
    padding: str
    made: tuple[int, int]


def padded(
    low: Lowering,
    node: onnx.NodeProto,
    tensor: int,
    shape: Sequence[int],
    quant: Quant | None,
    windows: Windows,
    *,
    lowest: bool = False,
) -> Padded:
    """Give `tensor`, of NHWC `shape`, the padding of a node; `lowest`: with the least number instead of zeros."""
    if text(node, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        raise unsupported(node, "its padding is not explicit")
    top, left, bottom, right = numbers(node, "pads", (0, 0, 0, 0))
    sizes = (shape[1] + top + bottom, shape[2] + left + right)
    made = windows.fitting(sizes)
    if min(made) < 1:
        raise unsupported(node, f"its window does not fit into {list(shape[1:3])}")
    if not any((top, left, bottom, right)):
        return Padded(tensor, "VALID", made)
    if (top, left, bottom, right) == windows.same(shape[1:3]):
        return Padded(tensor, "SAME", made)
    key = node_key(node)
    sides = np.asarray([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32)
    inputs = [tensor, low.file.constant(f"{key}.pads", sides)]
    code = "PAD"
    if lowest:
        code = "PADV2"
        filler = np.asarray([np.finfo(np.float32).min], np.float32)
        scales = None
        if quant is not None:
            filler, scales = np.asarray([INT8_MIN], np.int8), Scales.single(quant.scale, quant.zero)
        inputs.append(low.file.constant(f"{key}.filler", filler, scales))
    bigger = (shape[0], *sizes, shape[3])
    options = {"PAD": "PadOptions", "PADV2": "PadV2Options"}[code]
    return Padded(low.emit(code, inputs, f"pad{JOIN}{key}", bigger, quant, options), "VALID", made)
