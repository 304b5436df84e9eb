"""What a weight is worth: magnitude, magnitude times the input's norm, or the loss that its removal costs."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from compress.sparsity.layouts import LayerKind, WeightLayout


def magnitude(weight: Tensor) -> Tensor:
    """|w|, float32, the weight's shape."""
    return weight.detach().to(torch.float32).abs()


def input_norm(weight: Tensor, norms: Tensor, layout: WeightLayout) -> Tensor:
    """|w| times the norm of the input channel that it multiplies (Wanda, arXiv 2306.11695), the weight's shape.

    `norms`: [C], the L2 norm of each input channel over calibration data. Unlike |w| it does not change when scales are
    moved between layers, as by equalisation.
    """
    groups = layout.groups
    shape = tuple(weight.shape)
    channels = layout.length(shape) * groups
    if norms.shape != (channels,):
        raise UsageError(f"{list(norms.shape)} norms were given for {channels} input channels")
    if layout.kind is LayerKind.CONV_TRANSPOSE:
        spread = norms.reshape(-1, *[1] * (weight.dim() - 1))
    else:
        # Rows of channel group i read the i-th run of input channels.
        per_group = norms.reshape(groups, 1, -1).expand(groups, shape[0] // groups, channels // groups)
        spread = per_group.reshape(shape[0], channels // groups, *[1] * (weight.dim() - 2))
    return magnitude(weight) * spread.to(torch.float32)


def fisher(weight: Tensor, information: Tensor) -> Tensor:
    """w^2 F: twice the loss that removing a weight costs, to second order with a diagonal Fisher matrix.

    `information`: the mean square of the weight's gradient over samples, the weight's shape.
    """
    if information.shape != weight.shape:
        raise UsageError(f"Fisher information {list(information.shape)} is not of the weight's {list(weight.shape)}")
    return magnitude(weight).square() * information.detach().to(torch.float32)
