"""Precisions by name: from an assignment {layer: precision} to a plan and its compressed model, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from bitwright.foundation.errors import UsageError
from compress.compressed import CompressedModel
from compress.graph import bias_name, clone, layer_nodes, set_tensor, tensor, weight_name
from compress.placement import place
from compress.plan import LayerPlan, Plan
from compress.quantizers import QuantFormat, QuantParams
from hw_profiles import DType

Assignment = Mapping[str, str]
"""Precision name by layer name, for every layer of a network."""

LEFT_IN_FLOAT = "left in float by the search"


def precision_of(layer: LayerPlan, float_precision: str) -> str:
    """`int8` for 8-bit weights and activations, `w4a8` where the widths differ, else the float precision."""
    if layer.weight is None or layer.activation is None:
        return float_precision
    weight, activation = layer.weight.bits, layer.activation.bits
    return f"int{weight}" if weight == activation else f"w{weight}a{activation}"


def assignment_of(plan: Plan) -> dict[str, str]:
    """The precision of each layer of a plan, in network order."""
    return {name: precision_of(layer, plan.float_precision) for name, layer in plan.layers.items()}


def is_float(precision: str) -> bool:
    """Whether a precision is a plain float type: fp32, bf16 or fp16."""
    return precision in {dtype.value for dtype in DType} and not DType(precision).is_integer


@dataclass(frozen=True)
class Alternatives:
    """One network in every precision a layer may have. All graphs have the nodes of `float_graph`.

    `models`: by integer precision, a model with that precision in every layer that has it. `float_graph`: the network
    that was quantised, with its weights still float (those of a loaded model are rounded).
    """

    models: Mapping[str, CompressedModel]
    float_graph: fx.GraphModule

    @staticmethod
    def of(model: CompressedModel, float_graph: fx.GraphModule) -> Alternatives:
        """The alternatives of one model whose quantised layers all have the same precision."""
        found = {precision_of(p, "float") for p in model.plan.layers.values() if p.quantized}
        if len(found) != 1:
            raise UsageError(f"a model with one integer precision is needed; this one has {', '.join(sorted(found))}")
        return Alternatives({found.pop(): model}, float_graph).checked()

    def checked(self) -> Alternatives:
        """Itself; UsageError where the graphs do not belong together."""
        wanted = [(name, node.name) for name, node in layer_nodes(self.float_graph)]
        for precision, model in self.models.items():
            if [(name, node.name) for name, node in layer_nodes(model.graph)] != wanted:
                raise UsageError(f"the {precision} model and the float graph differ; both need the same transforms")
        if not self.models:
            raise UsageError("no integer precision to choose from")
        return self

    @property
    def layers(self) -> tuple[str, ...]:
        """Layer names in execution order."""
        return tuple(name for name, _ in layer_nodes(self.float_graph))

    def integer_precisions(self, layer: str) -> tuple[str, ...]:
        """The integer precisions in which a layer is available."""
        return tuple(p for p, model in self.models.items() if model.plan.layers[layer].quantized)

    def plan(self, assignment: Assignment, float_precision: str) -> Plan:
        """The plan of an assignment; UsageError for a layer or a precision that does not exist."""
        first = next(iter(self.models.values())).plan
        layers = {}
        for name in self.layers:
            precision = assignment.get(name)
            if precision in self.integer_precisions(name):
                layers[name] = self.models[str(precision)].plan.layers[name]
            elif precision == float_precision:
                known = first.layers[name]
                reason = LEFT_IN_FLOAT if known.quantized else known.reason
                layers[name] = LayerPlan(sparsity=known.sparsity, reason=reason)
            else:
                raise UsageError(f"layer {name} cannot be {precision}: a plan has {float_precision} and integers")
        return first.model_copy(update={"layers": layers, "float_precision": float_precision, "cost": None})

    def parts(self, plan: Plan) -> dict[str, CompressedModel]:
        """Per integer precision in use, the model with only the layers that have it, and all ranges they read."""
        assignment = assignment_of(plan)
        parts = {}
        for precision, model in self.models.items():
            wanted = {weight_name(n) for name, n in layer_nodes(model.graph) if assignment[name] == precision}
            if wanted:
                weights = {n: w for n, w in model.weights.items() if n in wanted}
                part = CompressedModel(model.graph, plan, weights)
                part.activations = {
                    s.tensor.name: self._ranges[s.tensor.name, s.form] for s in place(model.graph, plan)
                }
                parts[precision] = part
        return parts

    @cached_property
    def _ranges(self) -> dict[tuple[str, QuantFormat], QuantParams]:
        """The range of each tensor by format; the first precision that has one of it counts."""
        found: dict[tuple[str, QuantFormat], QuantParams] = {}
        for model in self.models.values():
            for site in model.sites():
                found.setdefault((site.tensor.name, site.form), model.activations[site.tensor.name])
        return found

    def realise(self, plan: Plan) -> CompressedModel:
        """The compressed model of a plan, with the weights and biases of float layers as they were before rounding."""
        result = CompressedModel(clone(self.float_graph), plan)
        for part in self.parts(plan).values():
            result.weights |= part.weights
            result.activations |= part.activations
            for _, node in layer_nodes(part.graph):
                bias = bias_name(node)
                if bias is not None and weight_name(node) in part.weights:
                    set_tensor(result.graph, bias, tensor(part.graph, bias).clone())
        return result
