"""LayerTable: every layer call of a captured network at an input size: shapes, MACs, parameters, activation sizes."""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, fx

from bitwright.foundation.errors import GraphError, UsageError
from compress.graph import aten, bias_name, layer_nodes, tensor, weight_name
from compress.plan import LayerPlan, Plan
from hw_profiles import DType, Op, bitops, bytes_moved

STRIDE, GROUPS = 3, 6
"""Positions of these arguments in all convolution operators of ATen."""


class LayerRow(BaseModel):
    """One call of a convolution or linear layer on one image (N = 1).

    `macs` are those of the dense layer; `params` are weight plus bias of this call, also where calls share them.
    `kernel` and `stride` are (height, width), and (1, 1) for a linear layer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    op: Op
    weight: str = Field(description="qualified name of the weight; calls that share it have the same")
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    macs: int
    params: int
    weight_elements: int

    @property
    def input_elements(self) -> int:
        """Values that the layer reads, without its weights."""
        return math.prod(self.input_shape)

    @property
    def output_elements(self) -> int:
        """Values that the layer writes."""
        return math.prod(self.output_shape)

    def activation_bytes(self, bits: int = 32) -> int:
        """Bytes of input plus output at `bits` a value."""
        return bytes_moved(0, self.input_elements, self.output_elements, bits, bits)


class LayerTable(BaseModel):
    """The layers of a network in execution order, at `input_shape` [1, C, H, W]. JSON by pydantic's own methods."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_shape: tuple[int, ...]
    rows: tuple[LayerRow, ...]
    other_params: int = Field(default=0, description="trained values outside layers, such as slopes of PReLU")

    @staticmethod
    def from_graph(graph_module: fx.GraphModule, example: Tensor) -> LayerTable:
        """Count the layers of a captured network at the size of `example`, [1, C, H, W]; no value is computed.

        Raises GraphError where the network does not take that size.
        """
        shapes = _Shapes(graph_module)
        try:
            with torch.inference_mode():
                shapes.run(torch.empty_like(example[:1], device="meta"))
        except (RuntimeError, ValueError, TypeError) as error:
            first = str(error).strip().splitlines()[0]
            raise GraphError(f"the network does not take an input of {list(example.shape)}: {first}") from error
        calls = list(layer_nodes(graph_module))
        rows = tuple(_row(graph_module, name, node, shapes.seen) for name, node in calls)
        counted = {weight_name(node) for _, node in calls} | {bias_name(node) for _, node in calls}
        used = {str(n.target) for n in graph_module.graph.nodes if n.op == "get_attr"} - counted
        trained = {name: p for name, p in graph_module.named_parameters() if name in used}
        others = sum(p.numel() for p in trained.values())
        return LayerTable(input_shape=(1, *example.shape[1:]), rows=rows, other_params=others)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layer calls on one image."""
        return sum(row.macs for row in self.rows)

    @property
    def params(self) -> int:
        """Trained values that the network uses, each counted once however many calls share it."""
        return sum({row.weight: row.params for row in self.rows}.values()) + self.other_params

    @property
    def weight_elements(self) -> int:
        """Weights of all layers, each counted once, without biases."""
        return sum({row.weight: row.weight_elements for row in self.rows}.values())

    def activation_bytes(self, bits: int = 32) -> int:
        """Bytes of inputs and outputs of all layer calls at `bits` a value."""
        return sum(row.activation_bytes(bits) for row in self.rows)

    def row(self, name: str) -> LayerRow:
        """The row of a layer; UsageError where there is none of that name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise UsageError(f"the network has no layer {name!r}")

    def layer_bitops(self, plan: Plan) -> dict[str, float]:
        """BitOps of each layer call under a plan; float layers count at the width of the plan's float precision."""
        missing = [row.name for row in self.rows if row.name not in plan.layers]
        if missing:
            raise UsageError(f"the plan says nothing of layer {missing[0]!r}; it belongs to another network")
        return {row.name: _bitops(row.macs, plan.layers[row.name], plan.float_precision) for row in self.rows}

    def bitops(self, plan: Plan) -> float:
        """BitOps of the network under a plan."""
        return sum(self.layer_bitops(plan).values())


def _bitops(macs: int, layer: LayerPlan, float_precision: str) -> float:
    kept = 1.0 if layer.sparsity is None else layer.sparsity.n / layer.sparsity.m
    weight, activation = (
        DType(float_precision).bits if form is None else form.bits for form in (layer.weight, layer.activation)
    )
    return bitops(macs, weight, activation, kept)


class _Shapes(fx.Interpreter):
    """Runs a graph on tensors without storage and keeps the shapes of what each node makes."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.seen: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> object:
        is_constant = n.op == "get_attr"
        value = self._constant(n) if is_constant else super().run_node(n)
        if isinstance(value, Tensor):
            self.seen[n] = tuple(value.shape)
        return value

    def _constant(self, n: fx.Node) -> Tensor:
        assert isinstance(self.module, fx.GraphModule)
        return torch.empty_like(tensor(self.module, str(n.target)), device="meta")


def _row(graph_module: fx.GraphModule, name: str, node: fx.Node, seen: dict[fx.Node, tuple[int, ...]]) -> LayerRow:
    weight, bias, source = tensor(graph_module, weight_name(node)), bias_name(node), node.args[0]
    assert isinstance(source, fx.Node)
    inputs, outputs = seen[source], seen[node]
    if node.target is aten.linear.default:
        op, kernel, stride, groups, positions = Op.LINEAR, (1, 1), (1, 1), 1, math.prod(outputs[:-1])
    else:
        transposed = node.target is aten.conv_transpose2d.input
        op = Op.CONVTRANSPOSE if transposed else Op.CONV
        kernel = (weight.shape[2], weight.shape[3])
        stride = _pair(_argument(node, STRIDE, "stride"))
        groups = _pair(_argument(node, GROUPS, "groups"))[0]
        # Each input position of a transposed convolution meets every weight once, as each output position does else.
        positions = math.prod((inputs if transposed else outputs)[2:])
    return LayerRow(
        name=name,
        op=op,
        weight=weight_name(node),
        input_shape=inputs,
        output_shape=outputs,
        kernel=kernel,
        stride=stride,
        groups=groups,
        macs=weight.numel() * positions,
        params=weight.numel() + (0 if bias is None else tensor(graph_module, bias).numel()),
        weight_elements=weight.numel(),
    )


def _argument(node: fx.Node, position: int, name: str) -> object:
    """An argument that may be given by position or by name; 1 where it is not given."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, 1)


def _pair(value: object) -> tuple[int, int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    first, last = values[0], values[-1]
    if not isinstance(first, int) or not isinstance(last, int):
        raise GraphError(f"a convolution's stride or groups {value!r} is not constant")
    return first, last
