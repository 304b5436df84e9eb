"""What the products of a layer sum over: its input as columns, one for each output position."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch.nn import functional

from compress.graph import aten


def patches(layer: fx.Node, weight: Tensor, x: Tensor, groups: int = 1, group: int = 0) -> Tensor:
    """[K, positions] of an input [N, C, H, W] or [..., C]; K goes through the `weight`'s dimensions behind the first.

    Of one channel group. Convolutions and linear layers only: each phase of a transposed convolution has its own sums.
    """
    if layer.target is aten.linear.default:
        return x.reshape(-1, x.shape[-1]).T
    given: dict[int, Any] = dict(enumerate(layer.args))
    stride, padding, dilation = given.get(3, 1), given.get(4, 0), given.get(5, 1)
    kernel, channels = tuple(weight.shape[2:]), x.shape[1] // groups
    x = x[:, group * channels : (group + 1) * channels]
    if isinstance(padding, str):
        spread = dilation if isinstance(dilation, (list, tuple)) else [dilation] * 2
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(spread, kernel, strict=True)]
        x = functional.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
        padding = 0
    return functional.unfold(x, kernel, dilation, padding, stride).transpose(0, 1).flatten(1)
