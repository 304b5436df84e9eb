"""From a subnet to a CompressedModel: the integers, scales and zero points of section 3.7, on the road of any plan."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.foundation.errors import UsageError
from compress.compressed import CompressedModel, QuantizedWeight
from compress.folding import fold_norms
from compress.graph import layer_nodes, tensor, weight_name
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import SMALLEST_SCALE, Granularity, QuantFormat, QuantParams, container, quantize
from compress.ranges import RangeMethod, activation_params
from compress.statistics import collect
from search.eqnet.elastic import ElasticActivation, ElasticWeight
from search.eqnet.forms import WIDEST
from search.eqnet.space import Configuration
from search.eqnet.supernet import Supernet

Statistics = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Target:
    """What a plan says besides its layers.

    `unsigned`: whether the device takes unsigned activations only, or signed ones only; None: what the network has.
    """

    architecture: str
    device: str = "any"
    runtime: str = "torch"
    float_precision: str = "fp32"
    placement: Placement = Placement.INPUTS
    unsigned: bool | None = None
    reduce_range: bool = False


def export(
    supernet: Supernet,
    configuration: Configuration,
    target: Target,
    norms: Statistics | None = None,
    inputs: Tensor | None = None,
) -> CompressedModel:
    """The subnet as integers.

    Batch norms, with the statistics `norms`, go into weight scales and biases: that gives every channel a scale of its
    own, so that a weight behind which a norm was folded is `channel` in the plan whatever its form was; its integers
    stay what they were, or change sign with the norm's gain. `inputs` [N, C, H, W] are needed where the placement has
    quantisers that the supernet did not learn.
    """
    supernet.choose(configuration)
    before = supernet.float_graph(norms)
    graph = fold_norms(before) if supernet.has_norms else before
    gains = _gains(before, graph)
    weights: dict[str, QuantizedWeight] = {}
    for name, quantizer in supernet.weights.items():
        exact = _weight(quantizer, tensor(before, name), target.reduce_range)
        gain = gains.get(name)
        weights[name] = exact if gain is None else _scaled(exact, gain, quantizer.axis)
    layers: dict[str, LayerPlan] = {}
    learned: dict[str, tuple[QuantParams, QuantFormat]] = {}
    for layer in supernet.space.layers:
        learned[layer.source] = _activation(supernet.activations[layer.source], target.unsigned)
        layers[layer.name] = LayerPlan(weight=weights[layer.weight].form, activation=learned[layer.source][1])
    plan = Plan(
        architecture=target.architecture, device=target.device, runtime=target.runtime,
        float_precision=target.float_precision, placement=target.placement, layers=layers,
    )  # fmt: skip
    model = CompressedModel(graph, plan, weights)
    for site in model.sites():
        # With quantised outputs, a tensor has the format of the layer that makes it, which need not be its reader's.
        params, form = learned.get(site.tensor.name, (None, None))
        if params is not None and form == site.form:
            model.activations[site.tensor.name] = params
    _calibrate_rest(model, inputs)
    return model


def _gains(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, Tensor]:
    """Per weight behind which a norm was folded, the factor [C] of each output channel."""
    kept = {node.name: node for node in after.graph.nodes}
    found = {}
    for _, node in layer_nodes(before):
        user = next(iter(node.users))
        if node.name not in kept or user.name in kept or user.target is not torch.ops.aten.batch_norm.default:
            continue
        gain, _, _, variance = user.args[1:5]
        assert isinstance(variance, fx.Node)
        factor = torch.rsqrt(tensor(before, str(variance.target)).double() + float(str(user.args[7])))
        if isinstance(gain, fx.Node):
            factor = factor * tensor(before, str(gain.target)).double()
        found[weight_name(node)] = factor
    return found


def _scaled(weight: QuantizedWeight, gain: Tensor, axis: int) -> QuantizedWeight:
    """The weight times a factor per output channel; a negative one mirrors the channel's integers in their range."""
    shape = [1] * weight.integers.dim()
    shape[axis] = -1
    turned = gain < 0
    ends = weight.form.qmin + weight.form.qmax
    integers = torch.where(turned.reshape(shape), ends - weight.integers.int(), weight.integers.int())
    zero = weight.params.zero_point.expand_as(gain)
    zero = torch.where(turned, ends - zero, zero).to(torch.int32).contiguous()
    scale = (weight.params.scale.double() * gain.abs()).clamp(min=SMALLEST_SCALE).to(torch.float32)
    form = weight.form.model_copy(update={"granularity": Granularity.CHANNEL})
    return QuantizedWeight(integers.to(weight.integers.dtype), QuantParams(scale, zero, axis), form)


def _weight(quantizer: ElasticWeight, weight: Tensor, reduce_range: bool) -> QuantizedWeight:
    """The integers of a weight; with `reduce_range`, 8 bits are the 7-bit grid in a format that leaves a bit unused.

    The 7-bit scales are the learned ones where the layer has them, else the 8-bit range with half the steps.
    """
    form = quantizer.grid
    if not reduce_range or form.bits != WIDEST:
        return quantizer.quantized(weight)
    reduced = form.model_copy(update={"reduce_range": True})
    if WIDEST - 1 in quantizer.bits:
        asymmetric = quantizer.shift() is not None
        quantizer.choose(WIDEST - 1, form.granularity, symmetric=not asymmetric)
        found = quantizer.quantized(weight)
        quantizer.choose(WIDEST, form.granularity, symmetric=not asymmetric)
        return QuantizedWeight(found.integers, found.params, reduced)
    wide = quantizer.quantized(weight).params
    factor = (form.qmax - form.qmin) / (reduced.qmax - reduced.qmin)
    zero = torch.clamp((wide.zero_point / factor).round(), reduced.qmin, reduced.qmax).to(torch.int32)
    params = QuantParams(wide.scale * factor, zero, wide.axis)
    return QuantizedWeight(quantize(weight, params, reduced).to(container(reduced)), params, reduced)


def _activation(quantizer: ElasticActivation, unsigned: bool | None) -> tuple[QuantParams, QuantFormat]:
    """Parameters and format of an input, in the codes that a device takes.

    With an offset, signed codes are the unsigned ones less half their range. Without one, signed codes of what is never
    negative are the unsigned grid that is one bit narrower: the learned one where there is one, else the same range
    with about half the steps.
    """
    params, form = quantizer.params(), quantizer.grid
    if unsigned is None or form.signed is not unsigned or (form.signed and quantizer.symmetric):
        return params, form
    if not quantizer.symmetric:
        half = 2 ** (form.bits - 1)
        moved = params.zero_point + (half if form.signed else -half)
        return QuantParams(params.scale, moved), form.model_copy(update={"signed": not form.signed})
    signed = form.model_copy(update={"signed": True, "symmetric": True})
    if form.bits - 1 in quantizer.bits:
        quantizer.choose(form.bits - 1, symmetric=True)
        params = quantizer.params()
        quantizer.choose(form.bits, symmetric=True)
        return params, signed
    return QuantParams(params.scale * (form.qmax / signed.qmax), params.zero_point), signed


def _calibrate_rest(model: CompressedModel, inputs: Tensor | None) -> None:
    """Ranges of the tensors that only the placement quantises, such as what leaves a layer, from `inputs`."""
    missing = {site.tensor.name: site.form for site in model.sites() if site.tensor.name not in model.activations}
    if not missing:
        return
    if inputs is None:
        raise UsageError(f"the placement also quantises {next(iter(missing))}; give inputs to calibrate it on")
    statistics = collect(model.graph, inputs, set(missing))
    for name, form in missing.items():
        model.activations[name] = activation_params(statistics[name], form, RangeMethod.MINMAX)
