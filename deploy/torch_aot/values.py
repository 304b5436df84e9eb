"""What is known while an exported graph is turned into torch operators: activations, constants and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from deploy.onnx_formats import E4M3

FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Integers:
    """A constant behind DequantizeLinear: integers, or values of E4M3, and scales and zero points of them.

    Both are [1] or [size of `axis`].
    """

    values: Tensor
    scale: Tensor
    zero: Tensor
    axis: int

    @property
    def reals(self) -> Tensor:
        """The constant in float32, computed as DequantizeLinear does."""
        shape = [1] * self.values.dim()
        if self.scale.numel() > 1:
            shape[self.axis] = -1
        if self.values.dtype == FP8:
            return self.values.to(torch.float32) * self.scale.reshape(shape)
        whole = self.values.to(torch.int32) - self.zero.to(torch.int32).reshape(shape)
        return whole.to(torch.float32) * self.scale.reshape(shape)

    def around_zero(self, axis: int) -> bool:
        """Whether its zero points are 0, and it has one scale or one for each index of `axis`."""
        one = self.scale.numel() == 1 or (self.axis == axis and self.scale.numel() == self.values.shape[axis])
        return one and not bool(self.zero.to(torch.float32).any())

    def fits_kernel(self, axis: int) -> bool:
        """Whether integer kernels of oneDNN take it as a weight whose output channels lie along `axis`."""
        return self.values.dtype == torch.int8 and self.around_zero(axis)


Value = Tensor | np.ndarray
"""An activation or a real constant; or whole numbers, such as sizes, which may be symbols."""


@dataclass(frozen=True)
class LayerConstants:
    """Weight and bias of one layer: quantised with a scale for each output channel, or in type `floats`.

    `zero`: zero points, for oneDNN; a quantised weight without them is as `products` has it. `one`: a scale of 1.0.
    """

    weight: Tensor
    bias: Tensor
    floats: torch.dtype
    scale: Tensor | None = None
    zero: Tensor | None = None
    one: Tensor | None = None


@dataclass
class Values:
    """What each tensor of the exported graph stands for so far.

    `constants`: the file's own, as they are written; `layers`: by the first output of their nodes; `floats`: what
    products of two activations are computed in.
    """

    found: dict[str, Value]
    constants: Mapping[str, np.ndarray]
    layers: Mapping[str, LayerConstants]
    floats: torch.dtype
    quantizers: dict[str, tuple[float, int, torch.dtype]] = field(default_factory=dict)
    """Scale, zero point and type of what is stored behind each dequantised activation."""
    stored: dict[str, Tensor] = field(default_factory=dict)
    """What is stored behind each dequantised activation."""

    def tensor(self, node: onnx.NodeProto, index: int = 0) -> Tensor:
        """An input of a node as an activation or a float constant."""
        value = self.found.get(node.input[index])
        if not isinstance(value, Tensor):
            raise unsupported(node, f"its input {node.input[index]!r} is not real")
        return value

    def sizes(self, node: onnx.NodeProto, index: int) -> list[Any] | None:
        """An input of a node that is a list of sizes; None where the node does not have it."""
        if not has(node, index):
            return None
        value = self.found.get(node.input[index])
        if not isinstance(value, np.ndarray):
            raise unsupported(node, f"its input {node.input[index]!r} is not a list of sizes")
        listed: list[Any] = value.reshape(-1).tolist()
        return listed

    def numbers(self, node: onnx.NodeProto, index: int) -> list[float] | None:
        """An input of a node that is a constant list of numbers; None where the node does not have it."""
        if not has(node, index):
            return None
        array = self.constants.get(node.input[index])
        if array is None:
            raise unsupported(node, f"its input {node.input[index]!r} is not a constant")
        return [float(value) for value in array.reshape(-1)]

    def limit(self, node: onnx.NodeProto, index: int) -> float | None:
        """An input of a node that is one constant number; None where the node does not have it."""
        given = self.numbers(node, index)
        return given[0] if given else None


Operator = Callable[[Values, onnx.NodeProto], Sequence[Value]]
"""Computes the outputs of a node."""


def constant(array: np.ndarray) -> Tensor:
    """A constant of a file as a tensor of its own; E4M3 is no type of numpy's, but of a package that onnx brings."""
    if array.dtype.name == E4M3:
        return torch.from_numpy(array.view(np.uint8).copy()).view(FP8)
    return torch.from_numpy(array.copy())


def has(node: onnx.NodeProto, index: int) -> bool:
    """Whether a node has an input that may be left out."""
    return index < len(node.input) and bool(node.input[index])


def in_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in another type. A conversion to its own would leave a trace that keeps kernels from being fused."""
    return x if x.dtype == dtype else x.to(dtype)


def unsupported(node: onnx.NodeProto, why: str) -> UsageError:
    """The error for a node that has no counterpart: names it and its operator."""
    return UsageError(
        f"torch cannot run node {node.name or node.output[0]!r} ({node.op_type}): {why}; choose another --runtime"
    )
