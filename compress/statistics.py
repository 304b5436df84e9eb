"""Statistics of activation tensors on calibration data, streamed: ranges, per-channel ranges, histograms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.foundation.progress import track
from compress.graph import aten, tensor

BINS = 2048
LEAKY_SLOPE = 0.01
"""Of `leaky_relu` where a graph gives none."""


@dataclass
class TensorStatistics:
    """What was seen of one tensor. `channel_*`: [C]. `histogram`: [BINS] counts over [low, high].

    `importance`: the same, where a leaky or parametric ReLU alone reads the tensor, each value counted by the square of
    what an error of it becomes behind: 1 above zero, the slope's below; else None.
    """

    low: float
    high: float
    channel_low: Tensor
    channel_high: Tensor
    channel_mean: Tensor
    histogram: Tensor
    importance: Tensor | None = None


class _Observer(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, wanted: set[str], see: Callable[[str, Tensor], None]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.see = see

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self.wanted and isinstance(value, Tensor):
            self.see(n.name, value)
        return value


def observe(
    module: fx.GraphModule,
    inputs: Tensor,
    wanted: set[str],
    see: Callable[[str, Tensor], None],
    description: str,
    batch: int = 4,
) -> None:
    """Run `inputs` ([N, C, H, W]) through the graph in small batches and hand the wanted tensors to `see`."""
    if not wanted:
        return
    observer = _Observer(module, wanted, see)
    with torch.inference_mode():
        for part in track(list(torch.split(inputs, batch)), description):
            observer.run(part)


def collect(module: fx.GraphModule, inputs: Tensor, wanted: set[str]) -> dict[str, TensorStatistics]:
    """Two passes over `inputs`: ranges first, then histograms inside them. Memory does not grow with the data."""
    ranges: dict[str, tuple[Tensor, Tensor, Tensor, int]] = {}

    def see_range(name: str, value: Tensor) -> None:
        flat = _channels(value)
        low, high, total, count = flat.amin(1), flat.amax(1), flat.double().sum(1), flat.shape[1]
        if name in ranges:
            known = ranges[name]
            low, high = torch.minimum(low, known[0]), torch.maximum(high, known[1])
            total, count = total + known[2], count + known[3]
        ranges[name] = (low, high, total, count)

    observe(module, inputs, wanted, see_range, "calibrating: ranges")
    histograms = {name: torch.zeros(BINS) for name in ranges}
    slopes = {node.name: found for node in module.graph.nodes if node.name in ranges and
              (found := slopes_behind(module, node)) is not None}  # fmt: skip
    importances = {name: torch.zeros(BINS) for name in slopes}

    def see_histogram(name: str, value: Tensor) -> None:
        low, high = float(ranges[name][0].min()), float(ranges[name][1].max())
        high = high if high > low else low + 1.0
        histograms[name] += torch.histc(value, BINS, low, high)
        if name in slopes:
            importances[name] += _weighted(_channels(value), slopes[name], low, high)

    observe(module, inputs, wanted, see_histogram, "calibrating: histograms")
    return {
        name: TensorStatistics(
            float(low.min()),
            float(high.max()),
            low.clone(),
            high.clone(),
            (total / count).float(),
            histograms[name],
            importances.get(name),
        )
        for name, (low, high, total, count) in ranges.items()
    }


def slopes_behind(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """What a leaky or parametric ReLU multiplies negative values by, [C] or [1], where it alone reads a tensor."""
    if len(node.users) != 1:
        return None
    (reader,) = node.users
    if reader.target is aten.leaky_relu.default:
        slope = reader.args[1] if len(reader.args) > 1 else LEAKY_SLOPE
        assert isinstance(slope, float | int)
        return torch.tensor([float(slope)])
    if reader.target is aten.prelu.default:
        slopes = reader.args[1]
        assert isinstance(slopes, fx.Node)
        return tensor(module, str(slopes.target)).detach().reshape(-1)
    return None


def _weighted(channels: Tensor, slopes: Tensor, low: float, high: float) -> Tensor:
    """[BINS] over [low, high] of values [C, rest], those below zero counted by the square of their channel's slope."""
    positive = torch.histc(channels[channels >= 0], BINS, low, high)
    negative = [torch.histc(row[row < 0], BINS, low, high) for row in (channels if len(slopes) > 1 else [channels])]
    return positive + (slopes.square()[:, None] * torch.stack(negative)).sum(0)


def drawn(value: Tensor, count: int, seed: int) -> Tensor:
    """`count` values of a tensor at random positions, [count]; all of them where there are no more.

    Positions follow from the seed and the tensor's size. A stride would see few columns of an image.
    """
    flat = value.reshape(-1)
    if flat.numel() <= count:
        return flat
    positions = torch.randint(flat.numel(), (count,), generator=torch.Generator().manual_seed(seed))
    return flat[positions.to(flat.device)]


def _channels(value: Tensor) -> Tensor:
    """[N, C, ...] -> [C, rest]."""
    return value.transpose(0, 1).reshape(value.shape[1], -1)


def bin_centres(statistics: TensorStatistics) -> Iterator[float]:
    """Centres of the histogram's bins, ascending."""
    high = statistics.high if statistics.high > statistics.low else statistics.low + 1.0
    step = (high - statistics.low) / BINS
    return (statistics.low + step * (i + 0.5) for i in range(BINS))
