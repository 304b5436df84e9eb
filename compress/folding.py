"""Function-preserving simplifications: batch norm and fixed 1x1 convolutions folded away, identities dropped."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.foundation.errors import GraphError
from compress.biases import give_biases
from compress.equalization import layer_groups, output_view
from compress.graph import (
    aten,
    bias_name,
    clone,
    is_layer,
    owns_tensors,
    rebuild,
    set_tensor,
    tensor,
    weight_name,
)

IDENTITIES = {aten.clone.default, aten.detach.default, aten.alias.default, aten.contiguous.default,
              aten.lift_fresh_copy.default}  # fmt: skip
NORMS = {aten.batch_norm.default: 7, aten._native_batch_norm_legit_no_training.default: 6}
"""Batch norm in eval mode: (x, weight, bias, mean, variance, ...) -> position of epsilon."""


@dataclass(frozen=True)
class FoldingRecord:
    """Names of the nodes that each pass removed."""

    batch_norms: tuple[str, ...] = ()
    convolutions: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()


def fold(graph_module: fx.GraphModule) -> tuple[fx.GraphModule, FoldingRecord]:
    """A copy without identities, and without the batch norms and 1x1 convolutions that a neighbour can absorb exactly.

    A fixed 1x1 convolution is folded forward only into a convolution without padding: padding puts zeros behind the
    1x1, and a shift in front of it would move them.
    """
    result = clone(graph_module)
    identities = _drop_identities(result)
    norms = [n.name for n in list(result.graph.nodes) if _fold_norm(result, n)]
    rebuild(result)
    convolutions = []
    for node in reversed(list(result.graph.nodes)):
        if is_layer(node):
            gone = _fold_pointwise(result, node)
            convolutions += [] if gone is None else [gone]
    rebuild(result)
    drop_unused_tensors(result)
    return result, FoldingRecord(tuple(norms), tuple(convolutions), identities)


def fold_norms(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy in which every batch norm that directly and alone follows a layer is folded into it; nothing else."""
    result = clone(graph_module)
    for node in list(result.graph.nodes):
        _fold_norm(result, node)
    rebuild(result)
    drop_unused_tensors(result)
    return result


def without_identities(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy without operators that do nothing; batch norms and layers stay as they are."""
    result = clone(graph_module)
    _drop_identities(result)
    rebuild(result)
    return result


def drop_unused_tensors(graph_module: fx.GraphModule, among: Collection[str] | None = None) -> None:
    """Forget the parameters and buffers that no node reads any more; `among`: only these, not those of modules."""
    read = {str(n.target) for n in graph_module.graph.nodes if n.op == "get_attr"}
    for name in [n for n, _ in (*graph_module.named_parameters(), *graph_module.named_buffers())]:
        if name not in read and (among is None or name in among):
            owner, _, leaf = name.rpartition(".")
            delattr(graph_module.get_submodule(owner), leaf)


def _drop_identities(graph_module: fx.GraphModule) -> tuple[str, ...]:
    dropped = []
    for node in list(graph_module.graph.nodes):
        inactive_dropout = node.target is aten.dropout.default and len(node.args) > 2 and node.args[2] is False
        if node.target in IDENTITIES or inactive_dropout:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            node.replace_all_uses_with(source)
            graph_module.graph.erase_node(node)
            dropped.append(node.name)
    return tuple(dropped)


def _constant(graph_module: fx.GraphModule, argument: object) -> Tensor | None:
    if argument is None:
        return None
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        raise GraphError(f"a batch norm reads {argument}, which is not a constant")
    return tensor(graph_module, str(argument.target)).double()


def _change(graph_module: fx.GraphModule, node: fx.Node, weight: Tensor, bias: Tensor) -> None:
    """Replace a layer's weight and bias, float64 in; a layer without a bias gets one."""
    give_biases(graph_module, {weight_name(node)})
    name = bias_name(node)
    assert name is not None
    dtype = tensor(graph_module, weight_name(node)).dtype
    set_tensor(graph_module, weight_name(node), weight.to(dtype))
    set_tensor(graph_module, name, bias.to(dtype))


def _bias(graph_module: fx.GraphModule, node: fx.Node, count: int) -> Tensor:
    name = bias_name(node)
    return torch.zeros(count, dtype=torch.float64) if name is None else tensor(graph_module, name).double()


def _fold_norm(graph_module: fx.GraphModule, norm: fx.Node) -> bool:
    """Fold an eval-mode batch norm into the layer that it alone follows."""
    if norm.target not in NORMS:
        return False
    layer, in_training = norm.args[0], norm.target is aten.batch_norm.default and norm.args[5]
    if in_training or not isinstance(layer, fx.Node) or not is_layer(layer) or len(layer.users) != 1:
        return False
    if not owns_tensors(graph_module, layer):
        return False
    gain, shift, mean, variance = (_constant(graph_module, a) for a in norm.args[1:5])
    if mean is None or variance is None:
        return False
    epsilon = norm.args[NORMS[norm.target]]
    assert isinstance(epsilon, float)
    factor = torch.rsqrt(variance + epsilon) * (torch.ones_like(mean) if gain is None else gain)
    weight = tensor(graph_module, weight_name(layer)).double()
    bias = (_bias(graph_module, layer, factor.numel()) - mean) * factor
    _change(graph_module, layer, weight * output_view(layer, factor, weight), bias if shift is None else bias + shift)
    value = norm
    if norm.target is not aten.batch_norm.default:
        value = next((u for u in norm.users if u.args[1] == 0), norm)
    value.replace_all_uses_with(layer)
    return True


def _pointwise(node: fx.Node) -> bool:
    """Whether a layer is a 1x1 convolution without stride, padding or groups."""
    if node.target is not aten.conv2d.default:
        return False
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    settings = [v for a in node.args[3:6] for v in (a if isinstance(a, (list, tuple)) else [a])]
    plain = [1, 1, 0, 0, 1, 1][: len(settings)]
    return tuple(weight.meta["val"].shape[2:]) == (1, 1) and settings == plain and layer_groups(node) == 1


def _unpadded(node: fx.Node) -> bool:
    if node.target is not aten.conv2d.default or layer_groups(node) != 1:
        return False
    padding = node.args[4] if len(node.args) > 4 else [0, 0]
    return isinstance(padding, (list, tuple)) and not any(padding)


def _fold_pointwise(graph_module: fx.GraphModule, first: fx.Node) -> str | None:
    """Fold two layers in a row, one of them 1x1, where exact and no larger; the name of the node that went."""
    if len(first.users) != 1 or first.target is not aten.conv2d.default:
        return None
    second = next(iter(first.users))
    if not is_layer(second) or second.args[0] is not first or second.target is not aten.conv2d.default:
        return None
    if not (owns_tensors(graph_module, first) and owns_tensors(graph_module, second)):
        return None
    a, b = (tensor(graph_module, weight_name(n)).double() for n in (first, second))
    bias_a, bias_b = _bias(graph_module, first, a.shape[0]), _bias(graph_module, second, b.shape[0])
    if _pointwise(second) and layer_groups(first) == 1:
        kept, gone, weight = first, second, torch.einsum("ochw,nohw->nchw", a, b.expand(-1, -1, *a.shape[2:]))
    elif _pointwise(first) and layer_groups(second) == 1 and (_unpadded(second) or not bias_a.any()):
        kept, gone, weight = second, first, torch.einsum("nohw,oc->nchw", b, a[:, :, 0, 0])
    else:
        return None
    if weight.numel() > a.numel() + b.numel():
        return None
    _change(graph_module, kept, weight, bias_b + torch.einsum("nohw,o->n", b, bias_a))
    if kept is first:
        second.replace_all_uses_with(first)
        first.meta["val"] = second.meta["val"]
    else:
        second.replace_input_with(first, first.all_input_nodes[0])
    graph_module.graph.erase_node(gone)
    return gone.name
