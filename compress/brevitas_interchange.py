"""Brevitas as the interchange: a compressed model as Brevitas layers, and Brevitas layers as a compressed model.

`to_brevitas` computes the same bits as `CompressedModel.simulate()`. `from_brevitas` takes over every weight and bias
integer and every scale; activations differ in one respect: Brevitas rounds x / scale + zero point, the fused kernels
x * (1 / scale), so a value within a float's error of the middle between two integers may go to the other one. With
scales that are powers of two and even zero points the two agree to the bit as well.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitwright.foundation.errors import UsageError
from compress.biases import give_biases
from compress.compressed import CompressedModel, QuantizedWeight
from compress.graph import aten, bias_name, capture, clone, layer_nodes, rebuild, set_tensor, tensor, weight_name
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import Granularity, QuantFormat, QuantParams, container, fake_quantize

PREFIX = "brevitas_"
PLAIN: list[Any] = [[1, 1], [0, 0], [1, 1], 1]
"""Stride, padding, dilation and groups of a convolution that states none."""


class StoredQuantizer(nn.Module):
    """What stands in a Brevitas proxy: our rounding at stored parameters, as (values, scale, zero point, bits)."""

    scale: Tensor
    zero_point: Tensor
    bits: Tensor

    def __init__(self, params: QuantParams, form: QuantFormat, dims: int) -> None:
        super().__init__()
        self.form, self.axis, self.dims = form, params.axis, dims
        self.register_buffer("scale", params.scale.clone())
        self.register_buffer("zero_point", params.zero_point.clone())
        self.register_buffer("bits", torch.tensor(float(form.bits)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fake-quantise `x`; scale and zero point come back in a shape that broadcasts against it."""
        params = QuantParams(self.scale, self.zero_point, self.axis)
        scale, zero = params.broadcast(self.dims)
        return fake_quantize(x, params, self.form), scale, zero.to(torch.float32), self.bits


def to_brevitas(model: CompressedModel) -> fx.GraphModule:
    """The network with a Brevitas layer for each quantised layer call; floats elsewhere. Equal to `simulate()`.

    UsageError names a layer whose format Brevitas' integer layers do not have.
    """
    from brevitas.nn import QuantIdentity
    from brevitas.quant import ShiftedUint8ActPerTensorFloat

    model.plan.require_integers("Brevitas' interchange")
    module = clone(model.graph)
    nodes = {node.name: node for node in module.graph.nodes}
    biases = model.integer_biases()
    for name, node in layer_nodes(model.graph):
        weight = model.weights.get(weight_name(node))
        if weight is None or not model.plan.layers[name].quantized:
            continue
        bias = None
        if node.name in biases:
            integers, params = biases[node.name]
            bias = integers.to(torch.float32) * params.scale
        source = node.args[0]
        assert isinstance(source, fx.Node)
        form = model.plan.layers[name].activation
        assert form is not None
        layer = _layer(name, node, weight, bias, model.activations[source.name], form)
        target = PREFIX + node.name
        module.add_submodule(target, layer)
        old = nodes[node.name]
        with module.graph.inserting_after(old):
            new = module.graph.call_module(target, (old.args[0],))
        new.meta = dict(old.meta)
        old.replace_all_uses_with(new)
        module.graph.erase_node(old)
        nodes[node.name] = new
    layers = {node.name for _, node in layer_nodes(model.graph)}
    for site in model.sites():
        others = [c for c in site.consumers if c.name not in layers]
        if not others:
            continue
        identity = QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat)
        params = model.activations[site.tensor.name]
        _store(identity.act_quant.fused_activation_quant_proxy, params, site.form, 0)
        target = f"{PREFIX}tensor_{site.tensor.name}"
        module.add_submodule(target, identity)
        with module.graph.inserting_after(nodes[site.tensor.name]):
            rounded = module.graph.call_module(target, (nodes[site.tensor.name],))
        for consumer in others:
            nodes[consumer.name].replace_input_with(nodes[site.tensor.name], rounded)
    rebuild(module)
    return module.eval()


def _store(proxy: nn.Module, params: QuantParams, form: QuantFormat, dims: int) -> None:
    proxy.tensor_quant = StoredQuantizer(params, form, dims)


def _layer(name: str, node: fx.Node, weight: QuantizedWeight, bias: Tensor | None, activation: QuantParams,
           form: QuantFormat) -> nn.Module:  # fmt: skip
    """The Brevitas layer of one call."""
    from brevitas.nn import QuantConv2d, QuantConvTranspose2d, QuantLinear
    from brevitas.quant import (
        Int8ActPerTensorFloat,
        Int8WeightPerChannelFloat,
        Int32Bias,
        ShiftedUint8ActPerTensorFloat,
    )

    if not weight.form.signed or not weight.form.symmetric:
        raise UsageError(f"layer {name}: Brevitas layers take symmetric signed weights; choose such a weight format")
    value = weight.values
    quantizers: dict[str, Any] = {
        "bias": bias is not None,
        "weight_quant": Int8WeightPerChannelFloat,
        "bias_quant": Int32Bias if bias is not None else None,
        "input_quant": Int8ActPerTensorFloat if form.signed else ShiftedUint8ActPerTensorFloat,
        "return_quant_tensor": False,
    }
    settings: list[Any] = list(node.args[3:])
    if node.target is aten.linear.default:
        layer = QuantLinear(value.shape[1], value.shape[0], **quantizers)
    elif node.target is aten.conv2d.default:
        stride, padding, dilation, groups = settings + PLAIN[len(settings) :]
        layer = QuantConv2d(
            value.shape[1] * groups, value.shape[0], tuple(value.shape[2:]), tuple(stride), tuple(padding),
            tuple(dilation), groups, **quantizers,
        )  # fmt: skip
    elif node.target is aten.conv_transpose2d.input:
        defaults: list[Any] = [[1, 1], [0, 0], [0, 0], 1, [1, 1]]
        stride, padding, extra, groups, dilation = settings + defaults[len(settings) :]
        layer = QuantConvTranspose2d(
            value.shape[0], value.shape[1] * groups, tuple(value.shape[2:]), tuple(stride), tuple(padding),
            tuple(extra), tuple(dilation), groups, **quantizers,
        )  # fmt: skip
    else:
        raise UsageError(f"layer {name}: Brevitas has no layer for {node.target}")
    with torch.no_grad():
        layer.weight.copy_(value)
        if bias is not None:
            layer.bias.copy_(bias)
    _store(layer.weight_quant, weight.params, weight.form, value.dim())
    _store(layer.input_quant.fused_activation_quant_proxy, activation, form, 0)
    result: nn.Module = layer.eval()
    return result


def from_brevitas(network: nn.Module, example: Tensor, *, architecture: str = "brevitas", device: str = "any",
                  runtime: str = "onnxruntime") -> CompressedModel:  # fmt: skip
    """The plan, integers and scales of a network whose quantised layers are Brevitas' with an `input_quant` each.

    `example`: an input [1, C, H, W]. UsageError names a layer without input quantiser, two layers that quantise one
    tensor differently, and Brevitas modules other than convolutions and linear layers.
    """
    from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer

    plain = copy.deepcopy(network).eval()
    found: dict[str, Any] = {}
    for name, module in list(plain.named_modules()):
        if isinstance(module, QuantWeightBiasInputOutputLayer):
            found[name] = module
            owner, _, leaf = name.rpartition(".")
            setattr(plain.get_submodule(owner), leaf, _plain(name, module))
        elif type(module).__module__.startswith("brevitas.nn") and not any(name.startswith(f"{f}.") for f in found):
            raise UsageError(f"{name}: {type(module).__name__} has no counterpart here; quantise layer inputs instead")
    graph = capture(plain, example)
    give_biases(graph, {weight_name(node) for _, node in layer_nodes(graph)})
    layers = {}
    for name, _ in layer_nodes(graph):
        source = found.get(name.partition("#")[0])
        layers[name] = LayerPlan(reason="float in Brevitas") if source is None else _plan_of(name, source)
    plan = Plan(
        architecture=architecture, device=device, runtime=runtime, float_precision="fp32",
        placement=Placement.INPUTS, layers=layers,
    )  # fmt: skip
    model = CompressedModel(graph, plan)
    for name, node in layer_nodes(graph):
        source = found.get(name.partition("#")[0])
        if source is None:
            continue
        form = layers[name].weight
        assert form is not None
        model.weights[weight_name(node)] = _weight(source, form)
        params = _activation(source)
        tensor_node = node.args[0]
        assert isinstance(tensor_node, fx.Node)
        known = model.activations.setdefault(tensor_node.name, params)
        if not (torch.equal(known.scale, params.scale) and torch.equal(known.zero_point, params.zero_point)):
            raise UsageError(
                f"layer {name} quantises its input otherwise than another layer that reads the same tensor"
            )
        if source.bias is not None and source.bias_quant.is_quant_enabled:
            scale = params.scale * model.weights[weight_name(node)].params.scale
            bias = str(bias_name(node))
            integers = torch.round(tensor(graph, bias) / scale)
            set_tensor(graph, bias, integers * scale)
    return model


def _plain(name: str, layer: nn.Module) -> nn.Module:
    """The float layer behind a Brevitas layer."""
    for kind in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear):
        if isinstance(layer, kind):
            twin = copy.copy(layer)
            twin.__class__ = kind
            twin._modules = {}
            twin._parameters = dict(layer._parameters)
            return twin
    raise UsageError(f"{name}: {type(layer).__name__} has no counterpart here; use convolutions and linear layers")


def _bits(value: Tensor | float | None) -> int:
    return int(torch.as_tensor(value if value is not None else 0).item())


def _plan_of(name: str, layer: Any) -> LayerPlan:
    if not layer.input_quant.is_quant_enabled:
        raise UsageError(f"layer {name} has no input_quant, so it does not compute on integers; give it one")
    weight, activation = layer.weight_quant, layer.input_quant
    per_channel = layer.quant_weight().scale.numel() > 1
    form = QuantFormat(
        bits=_bits(weight.bit_width()),
        granularity=Granularity.CHANNEL if per_channel else Granularity.TENSOR,
        symmetric=True,
        signed=bool(weight.is_signed),
    )
    zero = activation.zero_point()
    shape = QuantFormat(
        bits=_bits(activation.bit_width()),
        granularity=Granularity.TENSOR,
        symmetric=bool(activation.is_signed) and bool(activation.is_narrow_range) and not bool(zero),
        signed=bool(activation.is_signed),
    )
    return LayerPlan(weight=form, activation=shape)


def _weight(layer: Any, form: QuantFormat) -> QuantizedWeight:
    with torch.no_grad():
        quantized = layer.quant_weight()
        values, scale = quantized.value.detach(), quantized.scale.detach()
        integers = torch.round(values / scale)
    axis = None
    if scale.numel() > 1:
        axis = next(i for i, size in enumerate(scale.shape) if size > 1)
    scale = scale.reshape(-1) if axis is not None else scale.reshape(())
    if bool((integers.min() < form.qmin) | (integers.max() > form.qmax)):
        raise UsageError(f"a Brevitas weight uses integers outside [{form.qmin}, {form.qmax}]; use a narrow range")
    zeros = torch.zeros(scale.shape, dtype=torch.int32)
    return QuantizedWeight(integers.to(container(form)), QuantParams(scale.clone(), zeros, axis), form)


def _activation(layer: Any) -> QuantParams:
    with torch.no_grad():
        scale, zero = layer.input_quant.scale(), layer.input_quant.zero_point()
    return QuantParams(scale.reshape(()).clone(), torch.round(zero).reshape(()).to(torch.int32))


def export_qcdq(network: nn.Module, example: Tensor, path: Path) -> None:
    """Write Brevitas' QCDQ ONNX (opset 17), for flows that read it; not the file that our engines are built from."""
    from brevitas.export import export_onnx_qcdq

    path.parent.mkdir(parents=True, exist_ok=True)
    export_onnx_qcdq(network, args=example, export_path=str(path), dynamo=False, opset_version=17)
