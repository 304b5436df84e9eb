"""What the tests of QONNX share: formats, a plan with a precision for each layer, and a file made into an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, fx

from compress.compressed import CompressedModel
from compress.graph import layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import Granularity, QuantFormat
from compress.ranges import RangeMethod, set_ranges
from compress.statistics import collect
from deploy.engine import Engine, Runtime
from deploy.engines import build_engine, load_engine
from deploy.onnx_export import export_qonnx


def weights(bits: int, granularity: Granularity = Granularity.CHANNEL, symmetric: bool = True) -> QuantFormat:
    """Signed and symmetric, or unsigned and asymmetric."""
    return QuantFormat(bits=bits, granularity=granularity, symmetric=symmetric, signed=symmetric)


def activations(bits: int, *, signed: bool = True, symmetric: bool = True) -> QuantFormat:
    """One scale for the tensor."""
    return QuantFormat(bits=bits, granularity=Granularity.TENSOR, symmetric=symmetric, signed=signed)


def layer(weight_bits: int, activation_bits: int | None = None) -> LayerPlan:
    """Both in the form that FPGA flows take, without a zero point."""
    return LayerPlan(weight=weights(weight_bits), activation=activations(activation_bits or weight_bits))


FLOAT = LayerPlan(reason="on purpose")


def quantised(
    graph: fx.GraphModule,
    crops: Tensor,
    default: LayerPlan,
    others: Mapping[str, LayerPlan] | None = None,
    placement: Placement = Placement.INPUTS,
) -> CompressedModel:
    """The graph with every layer as `default`, but for those named in `others`; ranges reach to the extremes."""
    layers = {name: (others or {}).get(name, default) for name, _ in layer_nodes(graph)}
    plan = Plan(
        architecture="a", device="fpga-dataflow", runtime="qonnx", float_precision="fp32", placement=placement,
        layers=layers,
    )  # fmt: skip
    statistics = collect(graph, crops, {site.tensor.name for site in place(graph, plan)})
    return set_ranges(graph, plan, statistics, RangeMethod.MINMAX, RangeMethod.MINMAX)


def qonnx_engine(model: CompressedModel, example: Tensor, folder: Path) -> Engine:
    """The model as `folder`/model.onnx, built and loaded."""
    path = folder / "model.onnx"
    export_qonnx(model, example, path)
    build_engine(path, folder, runtime=Runtime.QONNX, profile="fpga-dataflow")
    return load_engine(folder, threads=1)
