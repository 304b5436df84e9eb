"""Sensitivity of each layer: the quality that is lost when this layer alone is quantised."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import fx

from bitwright.foundation.progress import track
from compress.compressed import CompressedModel
from compress.graph import bias_name, clone, layer_nodes, set_tensor, tensor, weight_name
from compress.plan import Plan
from workloads.workload import Predict, Sample, Workload

Evaluate = Callable[[Predict], float]


def evaluator(workload: Workload, samples: Sequence[Sample]) -> Evaluate:
    """A function that gives a network's mean quality on `samples`, in the metric's unit."""

    def evaluate(predict: Predict) -> float:
        with torch.inference_mode():
            return workload.evaluate(predict, samples).mean

    return evaluate


def restricted(model: CompressedModel, plan: Plan, float_graph: fx.GraphModule) -> CompressedModel:
    """The model under a plan that quantises a subset of its layers; integers and ranges are kept where they apply.

    Layers that become float take weight and bias from `float_graph`, the graph that was quantised: the graph of a model
    that was loaded, reconstructed or trained holds rounded values.
    """
    wanted = set(plan.quantized_layers)
    calls = list(layer_nodes(model.graph))
    kept = {weight_name(node) for name, node in calls if name in wanted}
    graph = clone(model.graph)
    original = dict(float_graph.state_dict())
    for _, node in calls:
        bias = bias_name(node)
        if weight_name(node) in kept:
            continue
        set_tensor(graph, weight_name(node), original[weight_name(node)].clone())
        if bias is not None:
            known = original.get(bias)
            set_tensor(graph, bias, torch.zeros_like(tensor(graph, bias)) if known is None else known.clone())
    result = CompressedModel(graph, plan, {n: w for n, w in model.weights.items() if n in kept})
    result.activations = {s.tensor.name: model.activations[s.tensor.name] for s in result.sites()}
    return result


def layer_sensitivity(model: CompressedModel, evaluate: Evaluate, float_graph: fx.GraphModule) -> dict[str, float]:
    """Drop in quality per quantised layer, in the metric's unit, in network order; small negative values are noise.

    `float_graph`: the graph that was quantised, as for `restricted`.
    """
    reference = evaluate(float_graph)
    names = model.plan.quantized_layers
    drops = {}
    for name in track(names, "measuring the sensitivity of each layer"):
        alone = restricted(model, model.plan.with_float(set(names) - {name}, "measured alone"), float_graph)
        drops[name] = reference - evaluate(alone.simulate())
    return drops
