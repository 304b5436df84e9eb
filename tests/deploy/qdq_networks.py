"""Small networks with explicit Q/DQ, written node by node, so that a single quantiser can be placed wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STEP, WEIGHT_STEP = 0.02, 0.01
WIDTH = 16
ZERO = np.int8(0)


@dataclass
class Sketch:
    """A graph in the making; every method returns the name of the tensor that it makes."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def quantised(self, x: str, name: str, *, step: Any = STEP, zero: Any = ZERO, axis: int = 1) -> str:
        """A Q/DQ pair on an activation."""
        scale, point = self.constant(f"{name}.scale", np.float32(step)), self.constant(f"{name}.zero", zero)
        whole = self.node("QuantizeLinear", [x, scale, point], f"{name}.q", axis=axis)
        return self.node("DequantizeLinear", [whole, scale, point], f"{name}.dq", axis=axis)

    def weight(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        axis: int = 0,
        kind: Any = np.int8,
        zero: int = 0,
        clip: bool = False,
    ) -> str:
        """An integer weight behind DequantizeLinear, one scale for each index of `axis`."""
        values = np.random.default_rng(len(name)).integers(1, 120, shape).astype(kind)
        whole = self.constant(f"{name}.weight.integers", values)
        if clip:
            ends = [self.constant(f"{name}.low", kind(-127)), self.constant(f"{name}.high", kind(127))]
            whole = self.node("Clip", [whole, *ends], f"{name}.clip")
        scale = self.constant(f"{name}.scale", np.full(shape[axis], WEIGHT_STEP, np.float32))
        point = self.constant(f"{name}.zero", np.full(shape[axis], zero, kind))
        return self.node("DequantizeLinear", [whole, scale, point], f"{name}.wdq", axis=axis)

    def conv(self, x: str, name: str, inputs: int, outputs: int = WIDTH, *, side: int = 3, **weight: Any) -> str:
        read = self.weight(name, (outputs, inputs, side, side), **weight)
        return self.node("Conv", [x, read], name, pads=[side // 2] * 4, kernel_shape=[side, side])

    def file(self, output: str) -> onnx.ModelProto:
        """The network: input [N, 3, H, W], one output."""
        made = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, "H", "W"])
        graph = helper.make_graph(self.nodes, "sketch", [given], [made], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def between(op: str, *constants: Any, **attributes: Any) -> Callable[[Sketch], str]:
    """conv `first`, Q/DQ, an operator, conv `second`."""

    def draw(sketch: Sketch) -> str:
        quantised = sketch.quantised(sketch.conv(sketch.quantised("input", "x"), "first", 3), "a")
        extra = ["" if value is None else sketch.constant(f"c{i}", value) for i, value in enumerate(constants)]
        moved = sketch.node(op, [quantised, *extra], "step", **attributes)
        channels = {"DepthToSpace": WIDTH // 4, "SpaceToDepth": 4 * WIDTH, "Slice": WIDTH // 2}.get(op, WIDTH)
        return sketch.conv(moved, "second", channels)

    return draw


def joined(step: float) -> Callable[[Sketch], str]:
    """Two convolutions whose outputs are quantised, one of them with `step`, joined in front of conv `second`."""

    def draw(sketch: Sketch) -> str:
        x = sketch.quantised("input", "x")
        left = sketch.quantised(sketch.conv(x, "left", 3, 8), "a")
        right = sketch.quantised(sketch.conv(x, "right", 3, 8), "b", step=step)
        return sketch.conv(sketch.node("Concat", [left, right], "step", axis=1), "second", WIDTH)

    return draw


def single(*, x: dict[str, Any] | None = None, **weight: Any) -> Callable[[Sketch], str]:
    """One convolution, `second`; `x`: how its input is quantised, None: not at all."""

    def draw(sketch: Sketch) -> str:
        return sketch.conv("input" if x is None else sketch.quantised("input", "x", **x), "second", 3, **weight)

    return draw


def integer_bias(sketch: Sketch) -> str:
    """A bias of int32 behind DequantizeLinear, as CPU runtimes want it."""
    x = sketch.quantised("input", "x")
    whole = sketch.constant("second.bias.integers", np.ones(WIDTH, np.int32))
    scale = sketch.constant("second.bias.scale", np.full(WIDTH, STEP * WEIGHT_STEP, np.float32))
    zero = sketch.constant("second.bias.zero", np.zeros(WIDTH, np.int32))
    bias = sketch.node("DequantizeLinear", [whole, scale, zero], "second.bdq", axis=0)
    return sketch.node("Conv", [x, sketch.weight("second", (WIDTH, 3, 3, 3)), bias], "second", pads=[1] * 4)


def float_weight(sketch: Sketch) -> str:
    """Only the input is quantised."""
    weight = sketch.constant("second.weight", np.ones((WIDTH, 3, 3, 3), np.float32))
    return sketch.node("Conv", [sketch.quantised("input", "x"), weight], "second", pads=[1] * 4)


def transposed(sketch: Sketch) -> str:
    """A transposed convolution."""
    quantised = sketch.quantised(sketch.conv(sketch.quantised("input", "x"), "first", 3), "a")
    weight = sketch.weight("second", (WIDTH, 8, 4, 4), axis=1)
    return sketch.node("ConvTranspose", [quantised, weight], "second", strides=[2, 2], pads=[1] * 4)


def grouped(sketch: Sketch) -> str:
    """A depthwise convolution."""
    quantised = sketch.quantised(sketch.conv(sketch.quantised("input", "x"), "first", 3), "a")
    return sketch.node(
        "Conv", [quantised, sketch.weight("second", (WIDTH, 1, 3, 3))], "second", pads=[1] * 4, group=WIDTH
    )


def product(op: str, axis: int, *, turned: bool = False, flattened_late: bool = False) -> Callable[[Sketch], str]:
    """A matrix product whose scales lie along `axis` of its weight; `turned`: the weight is transposed first.

    `flattened_late`: the input is quantised before it is flattened.
    """

    def draw(sketch: Sketch) -> str:
        made = sketch.conv(sketch.quantised("input", "x"), "first", 3)
        pooled = sketch.node("GlobalAveragePool", [made], "pool")
        given = sketch.quantised(pooled, "a") if flattened_late else pooled
        flat = sketch.node("Flatten", [given], "flat")
        weight = sketch.weight("second", (WIDTH, WIDTH), axis=axis)
        if turned and op == "MatMul":
            weight = sketch.node("Transpose", [weight], "turn", perm=[1, 0])
        attributes = {"transB": int(turned)} if op == "Gemm" else {}
        return sketch.node(
            op, [flat if flattened_late else sketch.quantised(flat, "a"), weight], "second", **attributes
        )

    return draw
