"""Subject: a network that is profiled; builds its engines as a real job does, with ranges that only serve timing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes
from compress.placement import place
from compress.plan import Plan
from compress.preparation import prepare
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import TensorStatistics, collect
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import build_engine
from deploy.onnx_export import export_quantized

_SAMPLES = 2


@dataclass
class Subject:
    """A captured network after the transforms that a real job applies; `example` is [1, C, H, W]."""

    name: str
    architecture: str
    graph: fx.GraphModule
    example: Tensor
    _statistics: dict[str, TensorStatistics] = field(default_factory=dict)

    @staticmethod
    def of(name: str, architecture: str, module: nn.Module, example: Tensor, *, one_size: bool = False) -> Subject:
        """Capture `module`, which may take the size of `example` only, and prepare it as every compression does."""
        return Subject(name, architecture, prepare(capture(module, example, one_size=one_size)), example)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers in network order."""
        return tuple(name for name, _ in layer_nodes(self.graph))

    def watch(self, plans: Iterable[Plan]) -> None:
        """Collect the ranges of every tensor that any of the plans quantises, once, on noise."""
        wanted = {site.tensor.name for plan in plans for site in place(self.graph, plan)} - self._statistics.keys()
        if wanted:
            generator = torch.Generator().manual_seed(0)
            noise = torch.rand((_SAMPLES, *self.example.shape[1:]), generator=generator)
            self._statistics.update(collect(self.graph, noise, wanted))

    def compress(self, plan: Plan) -> CompressedModel:
        """The network under a plan, by nearest rounding."""
        self.watch([plan])
        return set_ranges(self.graph, plan, self._statistics, RangeMethod.MINMAX)

    def export(self, plan: Plan, path: Path) -> None:
        """Write the network under a plan as ONNX."""
        export_quantized(self.compress(plan), self.example, path)


def build(onnx_path: Path, folder: Path, plan: Plan, input_shape: tuple[int, int, int, int]) -> None:
    """Build an engine that is specialised on a shape from a file that `Subject.export` wrote."""
    build_engine(
        onnx_path,
        folder,
        runtime=Runtime(plan.runtime),
        profile=plan.device,
        float_precision=FloatPrecision(plan.float_precision),
        input_shape=input_shape,
    )
