"""Sparse training of a captured network: its pruned weights become modules, which can be parametrised."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, fx, nn

from compress.graph import clone, rebuild, set_tensor, tensor
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import WeightLayout


class HeldWeight(nn.Module):
    """One weight of a captured network and how it lies; computes the weight itself."""

    def __init__(self, weight: Tensor, layout: WeightLayout) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.layout = layout

    def forward(self) -> Tensor:
        """The weight of the forward product, in the layer's shape."""
        return self.weight


def held_name(weight: str) -> str:
    """Module name of a held weight."""
    return f"held_{weight.replace('.', '_')}"


def held(graph: fx.GraphModule, wanted: Mapping[str, tuple[Sparsity, WeightLayout]]) -> fx.GraphModule:
    """A trainable copy of a float graph: the weights in `wanted` as modules `held_name`, the other tensors as they are.

    Every parameter that the graph reads is free to be trained.
    """
    module = clone(graph)
    module.requires_grad_(False)
    for name, (_, layout) in wanted.items():
        module.add_submodule(held_name(name), HeldWeight(tensor(graph, name), layout))
        readers = [n for n in module.graph.nodes if n.op == "get_attr" and n.target == name]
        with module.graph.inserting_before(readers[0]):
            value = module.graph.call_module(held_name(name))
        for reader in readers:
            reader.replace_all_uses_with(value)
    rebuild(module)
    for node in module.graph.nodes:
        if node.op == "get_attr" and isinstance(found := tensor(module, str(node.target)), nn.Parameter):
            found.requires_grad_(True)
    return module


def released(graph: fx.GraphModule, trained: fx.GraphModule,
             wanted: Mapping[str, tuple[Sparsity, WeightLayout]]) -> fx.GraphModule:  # fmt: skip
    """A copy of `graph` with the values that `trained`, made of it by `held`, has now; parametrisations are removed."""
    result = clone(graph)
    for node in trained.graph.nodes:
        if node.op == "get_attr":
            set_tensor(result, str(node.target), tensor(trained, str(node.target)).detach().clone())
    for name in wanted:
        set_tensor(result, name, tensor(trained, f"{held_name(name)}.weight").detach().clone())
    return result
