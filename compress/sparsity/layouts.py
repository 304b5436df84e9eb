"""Where the groups of N:M lie in each kind of weight: along the axis that the forward product sums over.

Canonical view: a matrix of rows x C, one row for each output channel and kernel position, C the input channels of one
channel group; group index = column // M. Kernel positions are never flattened into the groups: no hardware reads that.
Where M does not divide C, the last group of each row is short: it keeps at most N of the channels that it has, which is
what a runtime sees that fills channels up with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor, nn
from torch.nn import functional

from bitwright.foundation.errors import UsageError


class LayerKind(StrEnum):
    """How a weight is laid out."""

    LINEAR = "linear"
    """(K, C); also a fused QKV projection, (3E, E)."""
    CONV = "conv"
    """(K, C/g, ...) with one to three kernel axes."""
    CONV_TRANSPOSE = "conv_transpose"
    """(C, K/g, ...) with one to three kernel axes; all groups' inputs lie along axis 0."""


class Axis(StrEnum):
    """Which channels the groups run along."""

    INPUT = "in"
    """The reduction axis of the forward product: what hardware reads."""
    OUTPUT = "out"
    """The reduction axis of the input's gradient: speeds up training only, for research."""


@dataclass(frozen=True)
class WeightLayout:
    """The kind of a weight and its number of channel groups."""

    kind: LayerKind
    groups: int = 1

    def dim(self, axis: Axis = Axis.INPUT) -> int:
        """The dimension of the weight that the groups run along."""
        first = (self.kind is LayerKind.CONV_TRANSPOSE) == (axis is Axis.INPUT)
        return 0 if first else 1

    def length(self, shape: tuple[int, ...], axis: Axis = Axis.INPUT) -> int:
        """Channels that a group of N:M may lie in: those of one channel group. UsageError for another shape."""
        self._check(shape)
        dim = self.dim(axis)
        return shape[dim] // self.groups if dim == 0 else shape[dim]

    def rows(self, weight: Tensor, axis: Axis = Axis.INPUT) -> Tensor:
        """The canonical view of a weight, [rows, C]: output channel first, then kernel positions. A copy or a view."""
        self._check(tuple(weight.shape))
        # (g, outer, other, ...) with dim 0 split by channel group; then the grouped channels go last.
        split = split_dim(weight, 0, weight.shape[0] // self.groups)
        result: Tensor = split.movedim(self.dim(axis) + 1, -1).reshape(-1, self.length(tuple(weight.shape), axis))
        return result

    def from_rows(self, rows: Tensor, shape: tuple[int, ...], axis: Axis = Axis.INPUT) -> Tensor:
        """The weight of `shape` whose canonical view is `rows`."""
        self._check(shape)
        split = [self.groups, shape[0] // self.groups, *shape[1:]]
        moved = split.pop(self.dim(axis) + 1)
        result: Tensor = rows.reshape(*split, moved).movedim(-1, self.dim(axis) + 1).reshape(shape)
        return result

    def _check(self, shape: tuple[int, ...]) -> None:
        dims = (2, 2) if self.kind is LayerKind.LINEAR else (3, 5)
        if not dims[0] <= len(shape) <= dims[1] or shape[0] % self.groups:
            raise UsageError(f"a weight of shape {list(shape)} is not one of a {self.kind} with {self.groups} group(s)")


def filled_up(rows: Tensor, m: int) -> Tensor:
    """Canonical rows [rows, C] with zeros behind, so that `m` divides their length; themselves where it does."""
    short = -rows.shape[1] % m
    return functional.pad(rows, (0, short)) if short else rows


def split_dim(values: Tensor, dim: int, size: int) -> Tensor:
    """A view with dimension `dim`, not negative, split into (-1, size)."""
    shape = values.shape
    return values.reshape(*shape[:dim], shape[dim] // size, size, *shape[dim + 1 :])


def layout_of(module: nn.Module) -> WeightLayout | None:
    """The layout of a module's `weight`, or the one it tells; None for one that is never pruned (norms, ...)."""
    told = getattr(module, "layout", None)
    if isinstance(told, WeightLayout):
        return told
    if isinstance(module, nn.Linear):
        return WeightLayout(LayerKind.LINEAR)
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return WeightLayout(LayerKind.CONV_TRANSPOSE, module.groups)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return WeightLayout(LayerKind.CONV, module.groups)
    return None
