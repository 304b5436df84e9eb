"""Supernet: a captured network whose layers round in any width and form; one set of float weights behind all of them.

A tensor that several layers read has one quantiser, as it has in an engine. (The authors' release gives each reader
its own, which no runtime executes.) Batch norms stay, with their affine parameters trained and batch statistics in
training, and are calibrated anew for each subnet; networks without them begin with `compress.preparation.prepare`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from zlib import crc32

import torch
from torch import Tensor, fx, nn

from bitwright.foundation.errors import GraphError
from compress.folding import NORMS, drop_unused_tensors, without_identities
from compress.graph import aten, clone, layer_nodes, rebuild, set_tensor, tensor, weight_name
from compress.preparation import prepare
from compress.ranges import weight_axis
from compress.statistics import drawn, observe
from search.eqnet.elastic import ElasticActivation, ElasticWeight, choose_weight
from search.eqnet.forms import OffsetMode
from search.eqnet.space import Configuration, ElasticSpace

FIT_VALUES = 1 << 14
"""Values of an activation that its first scales are fitted to, beside its two extremes."""
FIT_BATCH = 4
"""Images that are observed at once for it."""


def trainable_graph(original: fx.GraphModule) -> fx.GraphModule:
    """The graph that a supernet is made of: `prepare`d, except that batch norms are kept where there are any."""
    has_norms = any(node.target in NORMS for node in original.graph.nodes)
    return without_identities(original) if has_norms else prepare(original)


class Supernet(nn.Module):
    """`template`: the float graph that it was made of, see `trainable_graph`; its weights are copied."""

    def __init__(self, template: fx.GraphModule, space: ElasticSpace, mode: OffsetMode = OffsetMode.INTEGER) -> None:
        super().__init__()
        self.space, self.mode = space, mode
        # In a tuple: it is no child, and neither trained nor saved.
        self._template = (clone(template),)
        self.graph = clone(template)
        self.norms = _free_norms(self.graph)
        self.activations = _elastic_activations(self.graph, space, mode)
        self.weights = _elastic_weights(self.graph, space, mode)
        rebuild(self.graph)
        drop_unused_tensors(self.graph, set(template.state_dict()))
        for parameter in self.graph.parameters():
            parameter.requires_grad_(True)
        self._first_calls = dict(reversed([(layer.weight, n) for n, layer in enumerate(space.layers)]))
        self._first_readers = dict(reversed([(layer.source, n) for n, layer in enumerate(space.layers)]))
        self.eval()

    @property
    def template(self) -> fx.GraphModule:
        """The float graph at the start."""
        return self._template[0]

    @property
    def has_norms(self) -> bool:
        """Whether subnets need their batch norms calibrated."""
        return bool(self.norms)

    def layer_weights(self) -> dict[str, Tensor]:
        """The float weights behind the quantisers, by name, in execution order."""
        return {name: tensor(self.graph, name) for name in self.weights}

    def fit(self, inputs: Tensor) -> None:
        """First scales and offsets: weights from themselves, activations from the float network on `inputs`."""
        for name, quantizer in self.weights.items():
            quantizer.fit(tensor(self.graph, name))
        draws = {name: _Draws(name, FIT_VALUES * FIT_BATCH // len(inputs)) for name in self.activations}
        observe(
            self.template, inputs, set(draws), lambda name, value: draws[name].see(value),
            "fitting the first activation scales", FIT_BATCH,
        )  # fmt: skip
        for name, activation in self.activations.items():
            activation.fit(draws[name].values())

    def choose(self, configuration: Configuration) -> None:
        """Be this subnet from now on; UsageError for a configuration that is not of the space."""
        self.space.check(configuration)
        for weight, quantizer in self.weights.items():
            choice = configuration.layers[self._first_calls[weight]]
            choose_weight(quantizer, choice.weight_bits, choice.form)
        for source, activation in self.activations.items():
            choice = configuration.layers[self._first_readers[source]]
            activation.choose(choice.activation_bits, choice.form.activation_symmetric)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the subnet chosen last."""
        result: Tensor = self.graph(x)
        return result

    def float_graph(self, norms: Mapping[str, tuple[Tensor, Tensor]] | None = None) -> fx.GraphModule:
        """The template with the present float weights; `norms`: mean and variance in place of the running ones."""
        result = clone(self.template)
        present = {n: p.detach().cpu() for n, p in (*self.graph.named_parameters(), *self.graph.named_buffers())}
        for name in [n for n, _ in (*result.named_parameters(), *result.named_buffers())]:
            if name in present:
                set_tensor(result, name, present[name].clone())
        for node in result.graph.nodes:
            if node.name in self.norms:
                norm = self.norms[node.name]
                mean, variance = (norm.running_mean, norm.running_var) if norms is None else norms[node.name]
                for argument, value in zip(node.args[1:5], (norm.weight, norm.bias, mean, variance), strict=True):
                    if isinstance(argument, fx.Node) and value is not None:
                        set_tensor(result, str(argument.target), value.detach().cpu().clone())
        return result

    def statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Copies of the running mean and variance of every batch norm, by node name."""
        found = {}
        for name, norm in self.norms.items():
            assert norm.running_mean is not None
            assert norm.running_var is not None
            found[name] = (norm.running_mean.clone(), norm.running_var.clone())
        return found


class FreeNorm(nn.BatchNorm2d):
    """A batch norm of whatever number of dimensions, the channels in the second one."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class _Draws:
    """Values of one activation at random positions of each batch, the same ones for the same name and batch."""

    def __init__(self, name: str, per_batch: int) -> None:
        self.name, self.per_batch = name, max(64, per_batch)
        self.picked: list[Tensor] = []
        self.low, self.high = torch.inf, -torch.inf

    def see(self, value: Tensor) -> None:
        """Draw from the next batch."""
        self.low, self.high = min(self.low, float(value.min())), max(self.high, float(value.max()))
        self.picked.append(drawn(value, self.per_batch, crc32(f"{self.name}/{len(self.picked)}".encode())))

    def values(self) -> Tensor:
        """What was drawn, and the extremes of all that was seen."""
        return torch.cat([*self.picked, torch.tensor([self.low, self.high])])


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; each part has its own mode back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _free_norms(graph: fx.GraphModule) -> dict[str, FreeNorm]:
    """Turn constant batch norms into modules that can be trained, in place; by node name."""
    found = {}
    for node in list(graph.graph.nodes):
        if node.target not in NORMS:
            continue
        if node.target is not aten.batch_norm.default:
            raise GraphError(f"the batch norm {node.name} cannot be trained; export the network in eval mode")
        values = [None if a is None else tensor(graph, str(a.target)) for a in node.args[1:5]]
        gain, shift, mean, variance = values
        if mean is None or variance is None:
            raise GraphError(f"the batch norm {node.name} has no running statistics; they cannot be calibrated")
        norm = FreeNorm(mean.numel(), eps=float(node.args[NORMS[node.target]]), affine=gain is not None)
        with torch.no_grad():
            for own, value in ((norm.weight, gain), (norm.bias, shift), (norm.running_mean, mean),
                               (norm.running_var, variance)):  # fmt: skip
                if own is not None and value is not None:
                    own.copy_(value)
        graph.add_submodule(f"norm_{node.name}", norm)
        with graph.graph.inserting_after(node):
            made = graph.graph.call_module(f"norm_{node.name}", (node.args[0],))
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)
        found[node.name] = norm
    return found


def _elastic_weights(graph: fx.GraphModule, space: ElasticSpace, mode: OffsetMode) -> dict[str, ElasticWeight]:
    widths = {layer.weight: layer.weight_bits for layer in space.layers}
    found: dict[str, ElasticWeight] = {}
    for _, node in list(layer_nodes(graph)):
        name = weight_name(node)
        if name in found:
            continue
        found[name] = ElasticWeight(tensor(graph, name), weight_axis(node), widths[name], mode)
        module = f"elastic_{name.replace('.', '_')}"
        graph.add_submodule(module, found[name])
        for source in [n for n in graph.graph.nodes if n.op == "get_attr" and n.target == name]:
            with graph.graph.inserting_after(source):
                rounded = graph.graph.call_module(module, (source,))
            source.replace_all_uses_with(rounded, lambda user, made=rounded: user is not made)
    return found


def _elastic_activations(graph: fx.GraphModule, space: ElasticSpace, mode: OffsetMode) -> dict[str, ElasticActivation]:
    """One quantiser for each tensor that layers read; only those layers read it rounded."""
    found: dict[str, ElasticActivation] = {}
    rounded: dict[str, fx.Node] = {}
    for (_, node), layer in zip(list(layer_nodes(graph)), space.layers, strict=True):
        source, key = node.args[0], layer.source
        assert isinstance(source, fx.Node)
        if key not in found:
            found[key] = ElasticActivation(layer.activation_bits, mode)
            graph.add_submodule(f"elastic_{key}", found[key])
            with graph.graph.inserting_after(source):
                rounded[key] = graph.graph.call_module(f"elastic_{key}", (source,))
        node.replace_input_with(source, rounded[key])
    return found
