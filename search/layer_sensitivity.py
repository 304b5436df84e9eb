"""Sensitivity of each layer: the quality that is lost when this layer alone is quantised."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import fx

from bitwright.foundation.progress import track
from compress.compressed import CompressedModel
from compress.graph import layer_nodes, weight_name
from compress.plan import Plan
from workloads.workload import Predict, Sample, Workload

Evaluate = Callable[[Predict], float]


def evaluator(workload: Workload, samples: Sequence[Sample]) -> Evaluate:
    """A function that gives a network's mean quality on `samples`, in the metric's unit."""

    def evaluate(predict: Predict) -> float:
        with torch.inference_mode():
            return workload.evaluate(predict, samples).mean

    return evaluate


def restricted(model: CompressedModel, plan: Plan) -> CompressedModel:
    """The model under a plan that quantises a subset of its layers; integers and ranges are kept where they apply."""
    wanted = set(plan.quantized_layers)
    weights = {weight_name(node) for name, node in layer_nodes(model.graph) if name in wanted}
    result = CompressedModel(model.graph, plan, {n: w for n, w in model.weights.items() if n in weights})
    result.activations = {s.tensor.name: model.activations[s.tensor.name] for s in result.sites()}
    return result


def layer_sensitivity(model: CompressedModel, evaluate: Evaluate, float_graph: fx.GraphModule) -> dict[str, float]:
    """Drop in quality per quantised layer, in the metric's unit, in network order; small negative values are noise."""
    reference = evaluate(float_graph)
    names = model.plan.quantized_layers
    drops = {}
    for name in track(names, "measuring the sensitivity of each layer"):
        alone = restricted(model, model.plan.with_float(set(names) - {name}, "measured alone"))
        drops[name] = reference - evaluate(alone.simulate())
    return drops
