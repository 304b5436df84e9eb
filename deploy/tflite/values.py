"""What the compiler knows of a tensor of the exported graph: as reals, as integers, or as a constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from bitwright.foundation.errors import UsageError

NHWC = (0, 2, 3, 1)
"""Where each size of a 4-D tensor in a TFLite file is found in ONNX's order."""
NCHW = (0, 3, 1, 2)
"""The way back."""

INT8_MIN, INT8_MAX = -128, 127


@dataclass(frozen=True)
class Quant:
    """Scale and zero point of int8 activations; unsigned ones are shifted by 128, which changes no value."""

    scale: float
    zero: int

    @property
    def smallest(self) -> float:
        """The smallest real that these integers stand for."""
        return (INT8_MIN - self.zero) * self.scale

    @property
    def largest(self) -> float:
        """The largest real that these integers stand for."""
        return (INT8_MAX - self.zero) * self.scale

    def within(self, low: float, high: float) -> bool:
        """Whether rounding to these integers already keeps values between `low` and `high`."""
        return low <= self.smallest and self.largest <= high


@dataclass
class Value:
    """An activation: its shape in the TFLite file (N, H, W, C where it has 4 sizes) and the tensors that hold it.

    `real`: index of a float tensor, `whole`: index of an int8 tensor of scale and zero point `quant`. At least one of
    them is there; where both are, dequantising `whole` gives `real` exactly.
    """

    name: str
    shape: tuple[int, ...]
    real: int | None = None
    whole: int | None = None
    quant: Quant | None = None

    @property
    def onnx_shape(self) -> tuple[int, ...]:
        """The shape in the exported graph."""
        return reordered(self.shape, NCHW) if len(self.shape) == 4 else self.shape


@dataclass(frozen=True)
class Integers:
    """A constant behind DequantizeLinear: integers, scales in float32 and zero points, both [1] or [size of `axis`]."""

    values: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    axis: int

    @property
    def reals(self) -> np.ndarray:
        """The constant in float32, computed as DequantizeLinear does."""
        shape = [1] * self.values.ndim
        if self.scale.size > 1:
            shape[self.axis] = -1
        whole = self.values.astype(np.int32) - self.zero.reshape(shape).astype(np.int32)
        reals: np.ndarray = whole.astype(np.float32) * self.scale.reshape(shape)
        return reals

    def moved(self, order: tuple[int, ...]) -> Integers:
        """The same constant with its axes in another order."""
        return Integers(self.values.transpose(order), self.scale, self.zero, order.index(self.axis))

    def fits_kernel(self, axis: int) -> bool:
        """Whether integer kernels take it as a weight whose output channels lie along `axis`."""
        one = self.scale.size == 1 or (self.axis == axis and self.scale.size == self.values.shape[axis])
        return self.values.dtype == np.int8 and one and not self.zero.any()


def reordered(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` in another order."""
    return tuple(shape[index] for index in order)


def unsupported(node: onnx.NodeProto, why: str) -> UsageError:
    """The error for a node that has no counterpart: names it and its operator."""
    return UsageError(
        f"LiteRT cannot run node {node.name or node.output[0]!r} ({node.op_type}): {why}; choose another --runtime"
    )
