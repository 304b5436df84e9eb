"""A network rounded to one width throughout: where trainings of that width begin."""

from __future__ import annotations

from torch import Tensor

from compress.bias_correction import correct_biases
from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.preparation import prepare
from compress.quantizers import A8, W8
from compress.ranges import RangeMethod, set_ranges
from compress.second_order_rounding import factors, round_weights
from compress.statistics import collect
from workloads.workload import LoadedModel


def rounded(loaded: LoadedModel, inputs: Tensor, bits: int, *, by_damage: bool = False) -> CompressedModel:
    """The network by nearest rounding, with ranges and biases from `inputs`, [N, C, H, W].

    The first and the last layer keep 8 bits. `by_damage`: weights are rounded by the damage to each layer's output.
    """
    graph = prepare(capture(loaded.module, loaded.workload.example_input(*inputs.shape[2:])))
    names = [name for name, _ in layer_nodes(graph)]
    layers = {}
    for name in names:
        width = 8 if name in (names[0], names[-1]) else bits
        layers[name] = LayerPlan(
            weight=W8.model_copy(update={"bits": width}), activation=A8.model_copy(update={"bits": width})
        )
    plan = Plan(
        architecture=loaded.architecture, device="simulated", runtime="none", float_precision="fp32",
        placement=Placement.INPUTS, layers=layers,
    )  # fmt: skip
    seen = collect(graph, inputs, {site.tensor.name for site in place(graph, plan)})
    model = set_ranges(graph, plan, seen, RangeMethod.MSE, RangeMethod.MSE)
    if by_damage:
        round_weights(model, graph, factors(graph, inputs, set(model.weights)))
    correct_biases(model, inputs)
    return model
