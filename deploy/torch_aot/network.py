"""A network of torch operators that computes what an exported ONNX file says, with the file's scales and integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from deploy.onnx_attributes import numbers
from deploy.onnx_formats import E4M3
from deploy.onnx_layers import node_key
from deploy.runtimes import FloatPrecision
from deploy.torch_aot import elementwise, layers, movement, normalisation, sizes, windows
from deploy.torch_aot.quantisers import dequantize, quantize, stored
from deploy.torch_aot.values import FP8, LayerConstants, Operator, Value, Values, in_type, unsupported

OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(elementwise.UNARY, elementwise.unary),
    **dict.fromkeys(elementwise.BINARY, elementwise.binary),
    "LeakyRelu": elementwise.leaky_relu,
    "HardSigmoid": elementwise.hard_sigmoid,
    "PRelu": elementwise.parametric_relu,
    "Clip": elementwise.clamp,
    "Conv": layers.convolution,
    "ConvTranspose": layers.transposed_convolution,
    "Gemm": layers.matrix_product,
    "MatMul": layers.matrix_product,
    "LayerNormalization": normalisation.layer_normalization,
    "Softmax": normalisation.softmax,
    "Concat": movement.concatenation,
    "Split": movement.split,
    "Slice": movement.cut,
    "Pad": movement.pad,
    "DepthToSpace": movement.depth_to_space,
    "Reshape": movement.reshape,
    "Flatten": movement.flatten,
    "Squeeze": movement.squeeze,
    "Unsqueeze": movement.unsqueeze,
    "Transpose": movement.transpose,
    **dict.fromkeys(("Identity", "Dropout"), movement.same),
    "MaxPool": windows.max_pool,
    "AveragePool": windows.average_pool,
    **dict.fromkeys(("ReduceMean", "GlobalAveragePool"), windows.mean),
    "Resize": windows.resize,
    "Shape": sizes.shape,
    "Gather": sizes.gather,
    "Cast": sizes.cast,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
}
"""How each operator of an exported graph is computed."""


_FLOATS = {
    FloatPrecision.FP32: torch.float32, FloatPrecision.BF16: torch.bfloat16, FloatPrecision.FP16: torch.float16,
}  # fmt: skip
_PARTS = ("weight", "bias", "scale", "zero", "one")


class OnnxNetwork(nn.Module):
    """The nodes of an ONNX file in their order, each an operator of torch.

    `given`: the shape of its input; `layers`: the names of its convolutions and matrix products, `quantized`: of those
    that compute on integers or in fp8. The constants of the i-th are buffers whose
    names begin with `layer{i}_`, by which they are found again in compiled code.

    `on_gpu`: quantised matrix products are those of torch's kernels for GPUs (`products`), else of oneDNN.
    """

    def __init__(self, path: Path, float_precision: FloatPrecision, *, on_gpu: bool = False) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        self.given = _shape(graph, path)
        self._given, self._wanted = graph.input[0].name, graph.output[0].name
        self._constants = _constants(graph)
        self._nodes = [node for node in graph.node if node.op_type != "Constant"]
        for node in self._nodes:
            if node.op_type not in OPERATORS:
                raise unsupported(node, "this operator has no counterpart")
        floats = _FLOATS[float_precision]
        prepared = layers.prepare(self._nodes, self._constants, floats, on_gpu=on_gpu)
        keys = {node.output[0]: node_key(node) for node in self._nodes}
        self.layers = tuple(keys[output] for output in prepared)
        self.quantized = tuple(keys[output] for output, layer in prepared.items() if layer.scale is not None)
        self.quantized_convolutions = tuple(map(node_key, layers.quantized_convolutions(self._nodes, self._constants)))
        self._floats = floats
        self._prepared = {output: f"layer{index}" for index, output in enumerate(prepared)}
        for output, name in self._prepared.items():
            for part in _PARTS:
                value = getattr(prepared[output], part)
                if value is not None:
                    self.register_buffer(f"{name}_{part}", value)
        self._fold_constants()
        self._read = self._read_elsewhere()
        for name, buffer in self._read.items():
            self.register_buffer(buffer, torch.from_numpy(self._constants[name].copy()))

    @property
    def largest(self) -> float | None:
        """The largest value that the quantiser of the input tells apart; None where there is none."""
        for node in self._nodes:
            if node.op_type == "QuantizeLinear" and node.input[0] == self._given:
                scale, zero = (self._constants[name] for name in node.input[1:3])
                top = torch.finfo(FP8).max if zero.dtype.name == E4M3 else np.iinfo(zero.dtype).max
                return float(scale) * (top - int(zero))
        return None

    @property
    def fp8(self) -> bool:
        """Whether anything in the file is stored in fp8."""
        return any(array.dtype.name == E4M3 for array in self._constants.values())

    def _fold_constants(self) -> None:
        """Compute the quantised constants, so that nothing of them is left among the nodes."""
        for node in self._nodes:
            if node.op_type == "DequantizeLinear" and node.input[0] in self._constants:
                self._constants[node.output[0]] = stored(node, self._constants).reals.numpy()
            elif node.op_type == "Transpose" and node.input[0] in self._constants:
                order = numbers(node, "perm", tuple(reversed(range(self._constants[node.input[0]].ndim))))
                self._constants[node.output[0]] = self._constants[node.input[0]].transpose(order)
        self._nodes = [node for node in self._nodes if node.output[0] not in self._constants]

    def _read_elsewhere(self) -> dict[str, str]:
        """Names of buffers for the real constants that are neither a layer's nor a quantiser's."""
        found: dict[str, str] = {}
        for node in self._nodes:
            own = node.op_type in {"QuantizeLinear", "DequantizeLinear"} or node.output[0] in self._prepared
            for name in () if own else node.input:
                if name in self._constants and self._constants[name].dtype == np.float32:
                    found.setdefault(name, f"constant{len(found)}")
        return found

    def _layer(self, name: str) -> LayerConstants:
        weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
        scale, zero, one = (getattr(self, f"{name}_{part}", None) for part in _PARTS[2:])
        return LayerConstants(weight, bias, self._floats, scale, zero, one)

    def forward(self, x: Tensor) -> Tensor:
        """Run one batch, [N, C, H, W] float32."""
        # Buffers are looked up here, because while the network is traced others stand in their place.
        found: dict[str, Value] = {n: array for n, array in self._constants.items() if array.dtype != np.float32}
        found |= {name: self.get_buffer(buffer) for name, buffer in self._read.items()}
        made = {output: self._layer(name) for output, name in self._prepared.items()}
        values = Values({**found, self._given: x}, self._constants, made, self._floats)
        for node in self._nodes:
            results = OPERATORS[node.op_type](values, node)
            for name, result in zip(node.output, results, strict=False):
                values.found[name] = result
        result = values.found[self._wanted]
        assert isinstance(result, Tensor)
        return in_type(result, torch.float32).contiguous()


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    found = {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = np.asarray(numpy_helper.to_array(node.attribute[0].t))
    return found


def _shape(graph: onnx.GraphProto, path: Path) -> tuple[int | None, int, int | None, int | None]:
    """What the network takes, [N, C, H, W], with None where a size may vary."""
    if len(graph.input) != 1 or len(graph.output) != 1:
        raise UsageError(
            f"{path} has {len(graph.input)} inputs and {len(graph.output)} outputs; an engine has one each"
        )
    stated = tuple(int(dim.dim_value) or None for dim in graph.input[0].type.tensor_type.shape.dim)
    if len(stated) != 4 or stated[1] is None:
        raise UsageError(f"{path} does not take [N, C, H, W] with a fixed number of channels")
    return stated[0], stated[1], stated[2], stated[3]
