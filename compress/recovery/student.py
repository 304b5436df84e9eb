"""The network that recovery trains: a compressed model with learned values in place of constants, and back again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, fx, nn

from bitwright.foundation.errors import UsageError
from compress.blocks import split
from compress.compressed import CompressedModel, quantizer_name
from compress.graph import bias_name, clone, output_node, rebuild, set_tensor, tensor, weight_name
from compress.recovery.learned import LearnedActivation, LearnedBias, LearnedWeight
from compress.soft_rounding import TunedBias

M = TypeVar("M", bound=nn.Module)


def trained_name(weight: str) -> str:
    """Module name of the learned values of a weight."""
    return f"trained_{weight.replace('.', '_')}"


def student_of(model: CompressedModel, teacher: fx.GraphModule) -> fx.GraphModule:
    """A trainable network that computes what `model.simulate()` does; only quantised layers are free.

    `teacher` holds the real weights behind the integers (the float graph that was quantised); zeros in it count as
    pruned and stay zero.
    """
    module = clone(model.graph)
    module.requires_grad_(False)
    nodes = {node.name: node for node in module.graph.nodes}
    weights: dict[str, LearnedWeight] = {}
    for name, weight in model.weights.items():
        real = tensor(teacher, name)
        weights[name] = LearnedWeight(weight, real, real == 0)
        module.add_submodule(trained_name(name), weights[name])
        readers = [n for n in module.graph.nodes if n.op == "get_attr" and n.target == name]
        with module.graph.inserting_before(readers[0]):
            value = module.graph.call_module(trained_name(name))
        for reader in readers:
            reader.replace_all_uses_with(value)
    inputs: dict[str, LearnedActivation] = {}
    for site in model.sites():
        name = quantizer_name(site.tensor.name)
        quantizer = LearnedActivation(model.activations[site.tensor.name], site.form)
        module.add_submodule(name, quantizer)
        with module.graph.inserting_after(nodes[site.tensor.name]):
            rounded = module.graph.call_module(name, (nodes[site.tensor.name],))
        for consumer in site.consumers:
            nodes[consumer.name].replace_input_with(nodes[site.tensor.name], rounded)
            inputs[consumer.name] = quantizer
    biases: dict[str, TunedBias] = {}
    originals = {node.name: node for node in model.graph.graph.nodes}
    for call in model.integer_biases():
        layer = originals[call]
        bias = str(bias_name(layer))
        if bias not in biases:
            biases[bias] = TunedBias(tensor(model.graph, bias), _bias_unit(model, layer))
        module.add_submodule(
            f"trained_bias_{call}", LearnedBias(biases[bias], inputs[call], weights[weight_name(layer)])
        )
        with module.graph.inserting_before(nodes[call]):
            nodes[call].update_arg(2, module.graph.call_module(f"trained_bias_{call}"))
    rebuild(module)
    return module


def _bias_unit(model: CompressedModel, node: fx.Node) -> Tensor:
    """Per output channel, what one step of the input's quantiser on all taps adds up to: |w| times the step, [C]."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    weight = model.weights[weight_name(node)]
    bias = tensor(model.graph, str(bias_name(node)))
    norms = weight.values.transpose(0, weight.params.axis or 0).flatten(1).norm(dim=1)
    if norms.shape != bias.shape:
        norms = norms.mean().expand_as(bias)
    result: Tensor = norms * model.activations[source.name].scale
    return result


def freeze(model: CompressedModel, student: fx.GraphModule) -> CompressedModel:
    """The compressed model that computes what `student` (made of `model`) computes now."""
    graph = clone(model.graph)
    weights = {}
    for name in model.weights:
        learned = _learned(student, trained_name(name), LearnedWeight)
        weights[name] = learned.quantized()
        set_tensor(graph, name, learned.real().detach().clone())
    nodes = {node.name: node for node in model.graph.graph.nodes}
    for call in model.integer_biases():
        with torch.no_grad():
            bias = _learned(student, f"trained_bias_{call}", LearnedBias).bias()
        set_tensor(graph, str(bias_name(nodes[call])), bias.clone())
    activations = dict(model.activations)
    for site in model.sites():
        learned_site = _learned(student, quantizer_name(site.tensor.name), LearnedActivation)
        activations[site.tensor.name] = learned_site.params()
    return CompressedModel(graph, model.plan, weights, activations)


def _learned(module: fx.GraphModule, name: str, kind: type[M]) -> M:
    found = module.get_submodule(name)
    assert isinstance(found, kind)
    return found


def tap_names(graph_module: fx.GraphModule, layers: int) -> tuple[str, ...]:
    """Nodes whose tensors are compared with the teacher's: what leaves each block of at most `layers` layers."""
    blocks = split(graph_module, layers)
    result = output_node(graph_module).args[0]
    return tuple(
        dict.fromkeys(n for b in blocks for n in b.outputs if not (isinstance(result, fx.Node) and n == result.name))
    )


def tapped(graph_module: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """A module that shares all tensors and returns (output, the tensors of the named nodes ...)."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(graph_module.graph, copied)
    nodes = {node.name: node for node in graph_module.graph.nodes}
    missing = [name for name in names if name not in nodes]
    if missing:
        raise UsageError(f"the teacher has no node {missing[0]!r}; it must come from the same transforms as the model")
    graph.output((result, *[copied[nodes[name]] for name in names]))
    return fx.GraphModule(graph_module, graph)
