"""CompressedModel: a captured network with a plan applied; runs in torch, saves as safetensors, exports to engines."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from bitwright.foundation.errors import CheckpointError
from bitwright.foundation.files import atomic_path
from compress.biases import give_biases, new_bias_name
from compress.graph import add_buffer, bias_name, clone, layer_nodes, rebuild, set_tensor, tensor, weight_name
from compress.placement import Site, place
from compress.plan import Plan
from compress.quantizers import QuantFormat, QuantParams, dequantize, fake_quantize

FORMAT = "bitwright-1"
METADATA = "bitwright"


class ActivationQuantizer(nn.Module):
    """Rounds an activation through what is stored of it; scale and zero point are buffers of shape []."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, params: QuantParams, form: QuantFormat) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("scale", params.scale)
        self.register_buffer("zero_point", params.zero_point)

    @property
    def params(self) -> QuantParams:
        """Scale and zero point as quantiser parameters."""
        return QuantParams(self.scale, self.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantise `x`, any shape."""
        return fake_quantize(x, self.params, self.form)


@dataclass(frozen=True)
class QuantizedWeight:
    """What is stored of a weight, its parameters and its format.

    `integers` has the layer's shape: int8 or uint8, or float8_e4m3fn where the format is fp8.
    """

    integers: Tensor
    params: QuantParams
    form: QuantFormat

    @property
    def values(self) -> Tensor:
        """The float32 weight that the stored values stand for."""
        return dequantize(self.integers, self.params)

    @property
    def stored_bytes(self) -> int:
        """Bytes that an engine keeps the integers in."""
        bits = 8 if self.form.block is None else self.form.bits
        return self.integers.numel() * bits // 8


def quantizer_name(site_tensor: str) -> str:
    """Module name of the quantiser that sits behind a tensor."""
    return f"quantizer_{site_tensor}"


@dataclass
class CompressedModel:
    """The float graph (after equalisation and bias correction), the plan, integer weights and activation parameters.

    `weights` is keyed by layer weight name, `activations` by the name of the node that makes the tensor.
    """

    graph: fx.GraphModule
    plan: Plan
    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    activations: dict[str, QuantParams] = field(default_factory=dict)

    def sites(self) -> tuple[Site, ...]:
        """The quantised activation tensors, from the plan's placement."""
        return place(self.graph, self.plan)

    def integer_biases(self) -> dict[str, tuple[Tensor, QuantParams]]:
        """The int32 bias of each layer call on integers, by node name, at scale s_x * s_w per channel.

        Layers in fp8 keep their bias in float.
        """
        inputs = {consumer.name: site.tensor.name for site in self.sites() for consumer in site.consumers}
        found = {}
        for _, node in layer_nodes(self.graph):
            weight, bias = self.weights.get(weight_name(node)), bias_name(node)
            if weight is None or bias is None or weight.form.is_fp8:
                continue
            if node.name in inputs:
                value = tensor(self.graph, bias)
                scale = (self.activations[inputs[node.name]].scale * weight.params.scale).expand_as(value).contiguous()
                limit = 2.0**31 - 1
                integers = torch.clamp(torch.round(value.double() / scale.double()), -limit, limit).to(torch.int32)
                found[node.name] = (integers, QuantParams(scale, torch.zeros_like(integers), 0))
        return found

    def simulate(self) -> fx.GraphModule:
        """A runnable torch module that computes what the engine should: fake-quantised, float32."""
        module = clone(self.graph)
        for name, weight in self.weights.items():
            set_tensor(module, name, weight.values)
        nodes = {node.name: node for node in module.graph.nodes}
        for call, (integers, params) in self.integer_biases().items():
            add_buffer(module, f"bias_{call}", dequantize(integers, params))
            with module.graph.inserting_before(nodes[call]):
                bias = module.graph.get_attr(f"bias_{call}")
            nodes[call].update_arg(2, bias)
        for site in self.sites():
            name = quantizer_name(site.tensor.name)
            module.add_submodule(name, ActivationQuantizer(self.activations[site.tensor.name], site.form))
            source = nodes[site.tensor.name]
            with module.graph.inserting_after(source):
                quantizer = module.graph.call_module(name, (source,))
            quantizer.meta = dict(source.meta)
            for consumer in site.consumers:
                nodes[consumer.name].replace_input_with(source, quantizer)
        rebuild(module)
        return module

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors as an engine stores them: one byte a quantised weight, all else in float32.

        Weights in blocks take the bits that they have.
        """
        quantized = sum(w.stored_bytes + 4 * w.params.scale.numel() for w in self.weights.values())
        rest = [p for n, p in self.graph.state_dict().items() if n not in self.weights]
        return int(quantized + sum(p.numel() * p.element_size() for p in rest) + 8 * len(self.activations))

    def save(self, path: Path) -> None:
        """Write all tensors and the plan as one safetensors file."""
        tensors: dict[str, Tensor] = {}
        for name, value in self.graph.state_dict().items():
            if name not in self.weights:
                tensors[f"float/{name}"] = value.detach().contiguous().clone()
        for name, weight in self.weights.items():
            tensors[f"weight/{name}/integers"] = weight.integers.contiguous()
            tensors[f"weight/{name}/scale"] = weight.params.scale.contiguous()
            tensors[f"weight/{name}/zero_point"] = weight.params.zero_point.contiguous()
        for name, params in self.activations.items():
            tensors[f"activation/{name}/scale"] = params.scale
            tensors[f"activation/{name}/zero_point"] = params.zero_point
        axes = {name: weight.params.axis for name, weight in self.weights.items()}
        # One entry: safetensors writes several in an order that changes from process to process.
        described = {"format": FORMAT, "plan": self.plan.model_dump(mode="json"), "axes": axes}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={METADATA: json.dumps(described)})

    @staticmethod
    def load(path: Path, graph: fx.GraphModule) -> CompressedModel:
        """Read a file that `save` wrote onto a freshly captured `graph` of the same architecture."""
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            if described.get("format") != FORMAT:
                raise CheckpointError(f"{path} is not a compressed model of this project")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        plan = Plan.model_validate(described["plan"])
        axes: dict[str, int | None] = described["axes"]
        model = CompressedModel(clone(graph), plan)
        bare = {weight_name(n) for _, n in layer_nodes(model.graph) if bias_name(n) is None}
        give_biases(model.graph, {name for name in bare if f"float/{new_bias_name(name)}" in tensors})
        for key, value in tensors.items():
            if key.startswith("float/"):
                name = key.removeprefix("float/")
                if name in model.graph.state_dict():
                    set_tensor(model.graph, name, value)
                else:
                    add_buffer(model.graph, name, value)
        forms = {weight_name(n): plan.layers[name].weight for name, n in layer_nodes(model.graph)}
        for name, axis in axes.items():
            prefix, form = f"weight/{name}", forms[name]
            assert form is not None
            params = QuantParams(tensors[f"{prefix}/scale"], tensors[f"{prefix}/zero_point"], axis, form.block)
            model.weights[name] = QuantizedWeight(tensors[f"{prefix}/integers"], params, form)
            set_tensor(model.graph, name, model.weights[name].values)
        for key, value in tensors.items():
            if key.startswith("activation/") and key.endswith("/scale"):
                name = key.split("/")[1]
                model.activations[name] = QuantParams(value, tensors[f"activation/{name}/zero_point"])
        return model
