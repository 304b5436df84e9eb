"""Stacks of convolutions, dense and under N:M, exported and built alike: what the table of runtimes is measured on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from compress.graph import capture, layer_nodes, set_tensor, tensor, weight_name
from compress.nm_pattern import Sparsity
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from compress.ranges import set_ranges
from compress.sparsity import LayerKind, WeightLayout, magnitude, nm_mask
from compress.sparsity.packing import pack
from compress.statistics import collect
from deploy.engine import Runtime
from deploy.engines import build_engine
from deploy.onnx_export import export_float, export_quantized
from deploy.onnx_sparsity import verify_nm
from hw_profiles import DType

CONV = WeightLayout(LayerKind.CONV)
DENSE = "dense"
MODEL = "model.onnx"


@dataclass(frozen=True)
class Stack:
    """`depth` convolutions of `width` channels with ReLU between them, on an input [1, width, side, side]."""

    kernel: int
    width: int
    depth: int
    side: int

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.depth} x {self.kernel}x{self.kernel}, {self.width} channels"

    def example(self) -> Tensor:
        """The input that is timed, the same for all engines."""
        return torch.rand(1, self.width, self.side, self.side, generator=torch.Generator().manual_seed(1))

    def graph(self, pattern: Sparsity | None) -> fx.GraphModule:
        """The captured network, with random weights that keep `pattern` by magnitude."""
        torch.manual_seed(0)
        parts: list[nn.Module] = []
        for _ in range(self.depth):
            parts += [nn.Conv2d(self.width, self.width, self.kernel, padding=self.kernel // 2), nn.ReLU()]
        graph = capture(nn.Sequential(*parts[:-1]), self.example())
        if pattern is not None:
            for _, node in layer_nodes(graph):
                weight = tensor(graph, weight_name(node))
                mask = nm_mask(magnitude(weight), pattern, CONV)
                set_tensor(graph, weight_name(node), weight.detach().masked_fill(~mask, 0.0))
        return graph


@dataclass(frozen=True)
class Sizes:
    """Bytes of an ONNX file, of the same deflated, and of its weights packed (dense ones as they are)."""

    raw: int
    deflated: int
    packed: int


def export(stack: Stack, pattern: Sparsity | None, dtype: DType, path: Path) -> Sizes:
    """Write the ONNX file of a stack, check the patterns of its final tensors, and tell its sizes.

    Dense and sparse files differ in their numbers only. VerificationError where the file does not keep the pattern.
    """
    graph, example = stack.graph(pattern), stack.example()
    weights = [tensor(graph, weight_name(node)) for _, node in layer_nodes(graph)]
    if dtype is DType.INT8:
        layers = {n: LayerPlan(weight=W8, activation=A8, sparsity=pattern) for n, _ in layer_nodes(graph)}
        plan = Plan(architecture="stack", device="any", runtime="any", float_precision="fp32",
                    placement=Placement.INPUTS_OUTPUTS, layers=layers)  # fmt: skip
        seen = collect(graph, example, {site.tensor.name for site in place(graph, plan)})
        model = set_ranges(graph, plan, seen)
        export_quantized(model, example, path)
        weights = [found.integers for found in model.weights.values()]
    else:
        export_float(graph, example, path)
    if pattern is not None:
        verify_nm(path, {name: pattern for name, _ in layer_nodes(graph)})
    data = path.read_bytes()
    return Sizes(len(data), len(zlib.compress(data, 9)), sum(_packed(weight, pattern) for weight in weights))


def _packed(weight: Tensor, pattern: Sparsity | None) -> int:
    if pattern is None:
        return weight.numel() * weight.element_size()
    return pack(weight, pattern, CONV).bytes


def build(stack: Stack, source: Path, folder: Path, runtime: Runtime, device: str) -> None:
    """The engine of an exported stack, compiled for its own input."""
    shape = (1, stack.width, stack.side, stack.side)
    build_engine(source, folder, runtime=runtime, profile=device, input_shape=shape)
