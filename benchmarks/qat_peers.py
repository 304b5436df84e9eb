"""The same network prepared for quantisation-aware training by others, and by the bare fused kernels of torch."""

from __future__ import annotations

import copy
import importlib

import torch
from torch import Tensor, nn


class FusedLSQ(nn.Module):
    """A convolution behind torch's fused fake-quantise kernels with learned scales, and nothing else.

    Input: one scale, uint8 steps with zero point 0; weight: a scale for each filter, symmetric int8.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        filters = conv.weight.detach().abs().amax(dim=(1, 2, 3))
        self.weight_scale = nn.Parameter(filters / 127)
        self.weight_zero = nn.Parameter(torch.zeros_like(filters), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor([1 / 64]))
        self.zero = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, C, H, W] as the convolution takes it."""
        weight = self.conv.weight
        step = 1 / (weight[0].numel() * 127) ** 0.5
        weight = torch._fake_quantize_learnable_per_channel_affine(
            weight, self.weight_scale, self.weight_zero, 0, -127, 127, step
        )
        x = torch._fake_quantize_learnable_per_tensor_affine(
            x, self.scale, self.zero, 0, 255, 1 / (x.numel() * 255) ** 0.5
        )
        output: Tensor = self.conv._conv_forward(x, weight, self.conv.bias)
        return output


def with_fused_lsq(module: nn.Module) -> nn.Module:
    """The network with every convolution behind torch's fused kernels."""
    network = copy.deepcopy(module)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, FusedLSQ(layer))
    return network.train()


def with_brevitas(module: nn.Module) -> nn.Module:
    """The network with Brevitas' convolutions: per-channel int8 weights and uint8 inputs, both learned."""
    from brevitas.nn import QuantConv2d
    from brevitas.quant import Int8WeightPerChannelFloat, ShiftedUint8ActPerTensorFloat

    network = copy.deepcopy(module)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            quantised = QuantConv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
                layer.groups, bias=layer.bias is not None, weight_quant=Int8WeightPerChannelFloat,
                input_quant=ShiftedUint8ActPerTensorFloat, input_collect_stats_steps=1,
            )  # fmt: skip
            quantised.load_state_dict(layer.state_dict(), strict=False)
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, quantised)
    return network.train()


def with_fx(module: nn.Module, example: Tensor) -> nn.Module:
    """torch.ao's FX mode with its fused moving-average observers, 8 bits, per-channel weights."""
    ao = importlib.import_module("torch.ao.quantization")
    prepare = importlib.import_module("torch.ao.quantization.quantize_fx").prepare_qat_fx
    mapping = ao.QConfigMapping().set_global(ao.get_default_qat_qconfig("onednn"))
    prepared: nn.Module = prepare(copy.deepcopy(module).train(), mapping, (example,))
    return prepared


def with_pt2e(module: nn.Module, example: Tensor) -> nn.Module:
    """torchao's PT2E with the x86 quantiser."""
    pt2e = importlib.import_module("torchao.quantization.pt2e")
    prepare = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e").prepare_qat_pt2e
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    exported = torch.export.export(copy.deepcopy(module).train(), (example,)).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    prepared: nn.Module = prepare(exported, quantizer)
    pt2e.move_exported_model_to_train(prepared)
    return prepared
