"""Runs a network under a plan in place of its float self, computing again only what the plan changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from compress.graph import layer_nodes, weight_name
from compress.plan import Plan
from compress.quantizers import QuantFormat, QuantParams, dequantize, fake_quantize
from hw_profiles import DType
from search.sensitivity.precision import Alternatives, assignment_of, is_float

Values = Mapping[str, object]
"""What each node of a graph has computed, by node name."""

_SHORT_FLOATS = {DType.BF16.value: torch.bfloat16, DType.FP16.value: torch.float16}


@dataclass(frozen=True)
class Variant:
    """What a plan replaces in the float graph, by node name. Computes what `CompressedModel.simulate` would.

    `constants`: weight and bias of quantised layers. `reads`: tensors that a consumer reads through a quantiser, as
    (tensor, consumer). `short`: layers in a short float type; their operands and results are rounded to it, weights
    included, and products are summed in float32.
    """

    constants: Mapping[str, tuple[Tensor, Tensor | None]]
    quantizers: Mapping[str, tuple[QuantParams, QuantFormat]]
    reads: frozenset[tuple[str, str]]
    short: Mapping[str, torch.dtype]

    @staticmethod
    def of(alternatives: Alternatives, plan: Plan) -> Variant:
        """The variant of a plan; its float layers compute in the plan's float precision."""
        constants: dict[str, tuple[Tensor, Tensor | None]] = {}
        quantizers: dict[str, tuple[QuantParams, QuantFormat]] = {}
        reads: set[tuple[str, str]] = set()
        for part in alternatives.parts(plan).values():
            biases = part.integer_biases()
            for _, node in layer_nodes(part.graph):
                weight = part.weights.get(weight_name(node))
                if weight is not None:
                    bias = dequantize(*biases[node.name]) if node.name in biases else None
                    constants[node.name] = weight.values, bias
            for site in part.sites():
                quantizers[site.tensor.name] = part.activations[site.tensor.name], site.form
                reads |= {(site.tensor.name, consumer.name) for consumer in site.consumers}
        short = {}
        assignment = assignment_of(plan)
        for name, node in layer_nodes(alternatives.float_graph):
            if is_float(assignment[name]) and assignment[name] in _SHORT_FLOATS:
                short[node.name] = _SHORT_FLOATS[assignment[name]]
        return Variant(constants, quantizers, frozenset(reads), short)

    @staticmethod
    def short_floats(alternatives: Alternatives, layers: Collection[str], precision: str) -> Variant:
        """The float network with `layers` in bf16 or fp16."""
        calls = layer_nodes(alternatives.float_graph)
        return Variant({}, {}, frozenset(), {n.name: _SHORT_FLOATS[precision] for name, n in calls if name in layers})

    def predict(self, graph_module: fx.GraphModule, x: Tensor) -> Tensor:
        """The network's output on `x` ([N, C, H, W]) under the variant, from the float graph."""
        return _Run(graph_module, self, None).compute(x)

    def again(self, graph_module: fx.GraphModule, x: Tensor, known: Values) -> Tensor:
        """As `predict`, taking every node that the variant does not touch from `known`, which `float_values` gave."""
        return _Run(graph_module, self, known).compute(x)


def float_values(graph_module: fx.GraphModule, x: Tensor) -> dict[str, object]:
    """What every node of the float graph computes on `x`."""
    interpreter = fx.Interpreter(graph_module, garbage_collect_values=False)
    with torch.inference_mode():
        interpreter.run(x)
    return {node.name: value for node, value in interpreter.env.items()}


def stored_bytes(values: Values) -> int:
    """Bytes of the tensors among `values`; views of one storage count once."""
    tensors = [v for v in values.values() if isinstance(v, Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _through(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype).to(value.dtype)


class _Run(fx.Interpreter):
    """Interprets the float graph with a variant's tensors in place of its own."""

    def __init__(self, module: fx.GraphModule, variant: Variant, known: Values | None) -> None:
        super().__init__(module)
        self.variant = variant
        self.known = known
        self.changed: set[str] = set()
        self.quantized: dict[str, Tensor] = {}
        self.readers: dict[str, int] = {}
        for source, _ in variant.reads:
            self.readers[source] = self.readers.get(source, 0) + 1

    def compute(self, x: Tensor) -> Tensor:
        """Run and return the one output."""
        with torch.inference_mode():
            result = self.run(x)
        assert isinstance(result, Tensor)
        return result

    def run_node(self, n: fx.Node) -> Any:
        if n.op in {"placeholder", "get_attr"}:
            return super().run_node(n)
        variant = self.variant
        touched = n.name in variant.constants or n.name in variant.short
        behind = any((s.name, n.name) in variant.reads or s.name in self.changed for s in n.all_input_nodes)
        if self.known is not None and not touched and not behind:
            return self.known[n.name] if n.op != "output" else self._operand(n, n.all_input_nodes[0])
        self.changed.add(n.name)
        mapped: Any = fx.node.map_arg((n.args, n.kwargs), lambda source: self._operand(n, source))
        args, kwargs = mapped
        if n.op == "output":
            return args[0]
        if n.name in variant.constants:
            weight, bias = variant.constants[n.name]
            args = (args[0], weight, args[2] if bias is None and len(args) > 2 else bias, *args[3:])
        elif n.name in variant.short:
            dtype = variant.short[n.name]
            args = (_through(args[0], dtype), _through(args[1], dtype), *args[2:])
        result = getattr(self, n.op)(n.target, args, kwargs)
        return _through(result, variant.short[n.name]) if n.name in variant.short else result

    def _operand(self, n: fx.Node, source: fx.Node) -> Any:
        """What `n` reads of `source`: its value, or that through the quantiser behind it."""
        value = self.env[source]
        if (source.name, n.name) not in self.variant.reads:
            return value
        if source.name not in self.quantized:
            assert isinstance(value, Tensor)
            self.quantized[source.name] = fake_quantize(value, *self.variant.quantizers[source.name])
        result = self.quantized[source.name]
        self.readers[source.name] -= 1
        if not self.readers[source.name]:
            del self.quantized[source.name]
        return result
