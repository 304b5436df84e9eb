"""Range setting: from what was seen of a tensor to the scale and zero point that quantise it."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, fx

from bitwright.foundation.errors import GraphError, UsageError
from compress.compressed import CompressedModel, QuantizedWeight
from compress.graph import aten, clone, layer_nodes, tensor, weight_name
from compress.placement import place
from compress.plan import Plan
from compress.quantizers import (
    Granularity,
    QuantFormat,
    QuantParams,
    encode,
    fake_quantize,
    nearest,
    params_from_range,
)
from compress.statistics import BINS, TensorStatistics

WEIGHT_SHRINKS = torch.linspace(1.0, 0.4, 61).tolist()
ACTIVATION_SHRINKS = torch.logspace(0.0, -1.3, 40)


class RangeMethod(StrEnum):
    """How the ends of a range are chosen.

    Where a leaky or parametric ReLU alone reads a tensor, both `MINMAX` and `MSE` take the ends with the least error
    behind it: values far below zero, which become small there, need not fit.
    """

    MINMAX = "minmax"
    """Everything that was seen fits."""
    PERCENTILE = "percentile"
    """A fixed fraction of values at each end is clipped."""
    MSE = "mse"
    """The ends that minimise the mean squared rounding and clipping error."""


def activation_params(
    statistics: TensorStatistics, form: QuantFormat, method: RangeMethod, percentile: float = 99.999
) -> QuantParams:
    """Per-tensor parameters of an activation.

    `percentile` in (50, 100]: percentage of values kept at each end of the range, for RangeMethod.PERCENTILE.
    """
    low, high = torch.tensor(statistics.low), torch.tensor(statistics.high)
    if method is RangeMethod.PERCENTILE:
        low, high = _percentile_ends(statistics, percentile)
    elif statistics.importance is not None:
        low, high = _mse_ends(statistics, statistics.importance, form)
    elif method is RangeMethod.MSE:
        low, high = _mse_ends(statistics, statistics.histogram, form)
    return params_from_range(low, high, form)


def weight_params(weight: Tensor, form: QuantFormat, method: RangeMethod, axis: int = 0) -> QuantParams:
    """Parameters of a weight, per channel along `axis`, per block or per tensor as `form` says; min-max or MSE.

    In blocks only for a matrix [rows, inputs] whose inputs the block divides; their scales are such that fp16 holds
    them, in which kernels keep them.
    """
    if method is RangeMethod.PERCENTILE:
        raise UsageError("weights have no percentile range; use minmax or mse")
    per_channel = form.granularity is Granularity.CHANNEL
    if form.block is not None:
        flat = weight.detach().reshape(-1, form.block)
    elif per_channel:
        flat = weight.detach().transpose(0, axis).reshape(weight.shape[axis], -1)
    else:
        flat = weight.reshape(1, -1)
    low, high = flat.amin(1), flat.amax(1)
    best = params_from_range(low, high, form, axis=0)
    if method is RangeMethod.MSE:
        error = (fake_quantize(flat, best, form) - flat).double().square().sum(1)
        scale, zero = best.scale.clone(), best.zero_point.clone()
        for shrink in WEIGHT_SHRINKS[1:]:
            trial = params_from_range(low * shrink, high * shrink, form, axis=0)
            found = (fake_quantize(flat, trial, form) - flat).double().square().sum(1)
            better = found < error
            error = torch.where(better, found, error)
            scale, zero = torch.where(better, trial.scale, scale), torch.where(better, trial.zero_point, zero)
        best = QuantParams(scale, zero, axis=0)
    if form.block is not None:
        scale, zero = (value.reshape(len(weight), -1) for value in (best.scale, best.zero_point))
        scale = scale.clamp(min=torch.finfo(torch.float16).smallest_normal).to(torch.float16).to(torch.float32)
        return QuantParams(scale, zero, 1, form.block)
    if per_channel:
        return QuantParams(best.scale, best.zero_point, axis)
    return QuantParams(best.scale[0], best.zero_point[0])


def weight_axis(node: fx.Node) -> int:
    """Dimension of a layer's weight that holds its output channels."""
    return 1 if node.target is aten.conv_transpose2d.input else 0


def set_ranges(
    graph_module: fx.GraphModule,
    plan: Plan,
    statistics: dict[str, TensorStatistics],
    activations: RangeMethod = RangeMethod.MINMAX,
    weights: RangeMethod = RangeMethod.MINMAX,
) -> CompressedModel:
    """A compressed model of a copy of the graph, by nearest rounding. `statistics`: at least every site of the plan."""
    model = CompressedModel(clone(graph_module), plan)
    for site in place(model.graph, plan):
        if site.tensor.name not in statistics:
            raise GraphError(f"no statistics of tensor {site.tensor.name!r}; collect them for every site of the plan")
        model.activations[site.tensor.name] = activation_params(statistics[site.tensor.name], site.form, activations)
    for name, node in layer_nodes(model.graph):
        form = plan.layers[name].weight
        if form is None or weight_name(node) in model.weights:
            continue
        value = tensor(model.graph, weight_name(node))
        params = weight_params(value, form, weights, weight_axis(node))
        model.weights[weight_name(node)] = QuantizedWeight(encode(value, params, form), params, form)
    return model


def _bin_centres(statistics: TensorStatistics) -> tuple[Tensor, float]:
    """Centres, [BINS] in float64, and the width of one bin."""
    high = statistics.high if statistics.high > statistics.low else statistics.low + 1.0
    step = (high - statistics.low) / BINS
    return statistics.low + step * (torch.arange(BINS, dtype=torch.float64) + 0.5), step


def _percentile_ends(statistics: TensorStatistics, percentile: float) -> tuple[Tensor, Tensor]:
    if not 50.0 < percentile <= 100.0:
        raise UsageError(f"the percentile is in (50, 100], not {percentile}")
    centres, step = _bin_centres(statistics)
    cumulative = torch.cumsum(statistics.histogram.double(), 0)
    tail = cumulative[-1] * (1.0 - percentile / 100.0)
    first = int(torch.searchsorted(cumulative, tail, right=True).clamp(max=BINS - 1))
    last = int(torch.searchsorted(cumulative, cumulative[-1] - tail).clamp(max=BINS - 1))
    low = torch.clamp(centres[first] - step / 2, min=statistics.low)
    high = torch.clamp(centres[last] + step / 2, max=statistics.high)
    return low, high


def _mse_ends(statistics: TensorStatistics, histogram: Tensor, form: QuantFormat) -> tuple[Tensor, Tensor]:
    """Search both ends at once on a histogram, [BINS]; the error of a bin is that of its centre."""
    centres, _ = _bin_centres(statistics)
    counts = histogram.double()
    occupied = counts > 0
    centres, counts = centres[occupied], counts[occupied]
    shrinks = ACTIVATION_SHRINKS.double()
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    if form.symmetric:
        lows, highs = low * shrinks, high * shrinks
    else:
        lows = (low * shrinks if low < 0 else torch.zeros(1, dtype=torch.float64)).repeat_interleave(len(shrinks))
        highs = (high * shrinks).repeat(len(lows) // len(shrinks))
    params = params_from_range(lows, highs, form, axis=0)
    scale, zero = params.scale.double()[:, None], params.zero_point.double()[:, None]
    rounded = (nearest(centres / scale, zero, form) - zero) * scale
    best = int(((rounded - centres).square() @ counts).argmin())
    return lows[best], highs[best]
