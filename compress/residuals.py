"""Residual sums taken into the convolution that they surround: conv(x) + x is one convolution.

A sum is a call of its own in most runtimes, reads two tensors, and keeps the convolution from writing integers. Its
price is precision: one weight of each filter grows by 1, and with it the step of that filter's integers, which 8 bits
bear well and 4 bits do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from compress.graph import CONV_OPS, aten, clone, is_layer, owns_tensors, rebuild, set_tensor, tensor, weight_name

SUMS = (aten.add.Tensor, aten.add_.Tensor)


@dataclass(frozen=True)
class ResidualRecord:
    """Names of the sums that convolutions took in."""

    absorbed: tuple[str, ...]


def absorb_residuals(graph_module: fx.GraphModule) -> tuple[fx.GraphModule, ResidualRecord]:
    """A copy in which conv(x) + x is one convolution, wherever nothing else reads conv(x); the same function.

    The convolution must keep the shape of x: stride 1, an odd window, centred. It may have groups.
    """
    result = clone(graph_module)
    absorbed = [node.name for node in list(result.graph.nodes) if _absorb(result, node)]
    rebuild(result)
    return result, ResidualRecord(tuple(absorbed))


def _absorb(graph_module: fx.GraphModule, total: fx.Node) -> bool:
    if total.target not in SUMS or total.kwargs.get("alpha", 1) != 1:
        return False
    for conv, other in (total.args[:2], total.args[1::-1]):
        if not (isinstance(conv, fx.Node) and isinstance(other, fx.Node) and is_layer(conv)):
            continue
        if conv.args[0] is other and len(conv.users) == 1 and _keeps_shape(graph_module, conv):
            _add_identity(graph_module, conv)
            total.replace_all_uses_with(conv)
            graph_module.graph.erase_node(total)
            return True
    return False


def _keeps_shape(graph_module: fx.GraphModule, conv: fx.Node) -> bool:
    if conv.target not in CONV_OPS or conv.target is aten.conv_transpose2d.input:
        return False
    weight = tensor(graph_module, weight_name(conv))
    window = list(weight.shape[2:])
    groups = _pair(conv.args[6])[0] if len(conv.args) > 6 else 1
    stride, dilation = (_pair(conv.args[k]) if len(conv.args) > k else [1, 1] for k in (3, 5))
    padding = conv.args[4] if len(conv.args) > 4 else 0
    centred = [d * (w // 2) for d, w in zip(dilation, window, strict=True)]
    return (
        weight.shape[0] == weight.shape[1] * groups
        and all(w % 2 == 1 for w in window)
        and stride == [1, 1]
        and (padding == "same" or (not isinstance(padding, str) and _pair(padding) == centred))
        and owns_tensors(graph_module, conv)
    )


def _pair(value: object) -> list[int]:
    values = value if isinstance(value, (list, tuple)) else [value]
    numbers = [v for v in values if isinstance(v, int)]
    return numbers * 2 if len(numbers) == 1 else numbers


def _add_identity(graph_module: fx.GraphModule, conv: fx.Node) -> None:
    name = weight_name(conv)
    weight = tensor(graph_module, name).clone()
    outputs = torch.arange(weight.shape[0])
    height, width = weight.shape[2:]
    weight[outputs, outputs % weight.shape[1], height // 2, width // 2] += 1
    set_tensor(graph_module, name, weight)
