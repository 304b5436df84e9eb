"""How operators answer to a positive scale of their input channels."""

from __future__ import annotations

from compress.graph import aten

KEEPING_OPS = {
    aten.relu.default, aten.leaky_relu.default, aten.prelu.default, aten.abs.default, aten.neg.default,
    aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default,
    aten.adaptive_max_pool2d.default,
    aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.clone.default,
    aten.alias.default, aten.detach.default, aten.dropout.default, aten.contiguous.default,
    aten.reflection_pad2d.default,
    aten.replication_pad2d.default,
}  # fmt: skip
"""f(s * x) = s * f(x) for s > 0, channel by channel."""
REDUCTIONS = {aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default}
"""Homogeneous where they reduce dimensions behind the channels only."""
RESHAPES = {aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.squeeze.dim, aten.squeeze.dims,
            aten.unsqueeze.default}  # fmt: skip
POWERS = {aten.sqrt.default: 0.5, aten.rsqrt.default: -0.5, aten.reciprocal.default: -1.0}
"""f(s * x) = s ** power * f(x)."""
SUMS = {aten.add.Tensor, aten.sub.Tensor, aten.maximum.default, aten.minimum.default}
"""All operands and the result share one scale."""
PRODUCTS = {aten.mul.Tensor: 1.0, aten.div.Tensor: -1.0}
"""The result has the first scale times the second to this power."""
SPLITS = {aten.split_with_sizes.default: 2, aten.split.Tensor: 2, aten.chunk.default: 2}
"""Operators that return a list of parts -> position of the dimension among the arguments."""
