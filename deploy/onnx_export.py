"""ONNX files with explicit quantise/dequantise pairs, dynamic in batch, height and width."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, fx

from bitwright.foundation.errors import GraphError
from bitwright.foundation.files import atomic_path
from compress.compressed import CompressedModel
from compress.exportable import CONSTANTS, dequantize, dequantize_blocks, exportable, quantize_dequantize
from compress.graph import dynamic_dimensions
from compress.integer_graph import integer_graph, quant
from deploy import onnx_blocks
from deploy.onnx_formats import verify_formats
from deploy.onnx_layers import name_folded, name_layers
from deploy.onnx_plan import PLAN_KEY
from deploy.runtimes import Runtime

OPSET = 18
FP8_OPSET = 19
"""The first with float8 in QuantizeLinear and DequantizeLinear; only files that need it have it."""
INPUT, OUTPUT = "input", "output"
_SUMMARY = re.compile(r"## Exception summary\s+<class '[^']*'>: (.+)")


def export_float(graph: fx.GraphModule, example: Tensor, path: Path) -> None:
    """Write the float network as ONNX. `example`: [1, C, H, W]; N, H and W are dynamic where the graph has them so."""
    _export(graph, example, path, {})


def export_quantized(model: CompressedModel, example: Tensor, path: Path, *, quantize_bias: bool = True) -> None:
    """Write the compressed network as ONNX with Q/DQ pairs exactly where `model.simulate()` has quantisers.

    Initialisers of quantised weights are named `<weight name>.integers`; Conv and Gemm nodes carry their layer's name;
    the plan travels in the file's metadata.
    """
    graph = exportable(model, quantize_bias=quantize_bias)
    opset = FP8_OPSET if model.plan.fp8 else onnx_blocks.OPSET if model.plan.weight_only else OPSET
    _export(graph, example, path, {PLAN_KEY: model.plan.model_dump_json()}, opset)


def export_qonnx(model: CompressedModel, example: Tensor, path: Path) -> None:
    """Write the compressed network as QONNX: a Quant node for each quantiser, convolutions on integers, scales behind.

    It computes what `integer_graph(model)` computes: the same bits wherever quantised layers, sums, products and
    roundings are all there is. Brevitas' export does not: it adds a zero point before it rounds, divides by scales, and
    leaves them in the operands of convolutions, whose sums then round.
    Names and metadata are as `export_quantized` has them.
    """
    _export(integer_graph(model), example, path, {PLAN_KEY: model.plan.model_dump_json()})


def export_for(
    runtime: str, model: CompressedModel, example: Tensor, path: Path, *, quantize_bias: bool = True
) -> None:
    """Write the file that the engines of a runtime are built from: QONNX, or Q/DQ pairs for all others.

    VerificationError where the formats in a file of Q/DQ pairs are not those of the plan; of a QONNX file the audit
    reads them. UsageError for layers in fp8, or with only their weight quantised, and a runtime that is given none.
    """
    # Files are also written for runtimes that engines are not built for here.
    takes_fp8 = runtime in {each for each in Runtime if each.has_fp8}
    takes_blocks = runtime in {each for each in Runtime if each.has_weight_blocks}
    if (model.plan.fp8 and not takes_fp8) or (model.plan.weight_only and not takes_blocks):
        model.plan.require_integers(f"an engine of {runtime}")
    if runtime == Runtime.QONNX:
        export_qonnx(model, example, path)
    else:
        export_quantized(model, example, path, quantize_bias=quantize_bias)
        verify_formats(path, model.plan)


def _export(graph: fx.GraphModule, example: Tensor, path: Path, metadata: dict[str, str], opset: int = OPSET) -> None:
    pair = torch.cat([example, example.flip(-1)])
    sizes = dict.fromkeys(dynamic_dimensions(graph), torch.export.Dim.DYNAMIC)
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(graph, (pair,), dynamic_shapes=(sizes,))
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                external_data=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
                custom_translation_table=_translations(),
            )
        except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
            raise GraphError(f"the network cannot be written as ONNX: {_reason(error)}") from error
    assert exported is not None
    file = exported.model_proto
    onnx_blocks.write_blocks(file)
    clean(file)
    matrices = {n: v for n, v in graph.state_dict().items() if v.dim() == 2 and v.dtype == torch.float32}
    name_folded(file, {name: value.detach().numpy() for name, value in matrices.items()})
    name_layers(file)
    for key, value in metadata.items():
        entry = file.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(file)
    with atomic_path(path) as temporary:
        onnx.save(file, temporary)


def _reason(error: Exception) -> str:
    """The line of an exporter's message that says what is wrong: the innermost error of its summary, if it has one."""
    text = str(error).strip()
    found = _SUMMARY.search(text)
    return found[1] if found else text.splitlines()[0] if text else type(error).__name__


def clean(file: onnx.ModelProto) -> None:
    """Drop the exporter's notes (they hold source paths of this machine) and the prefix of integer constants."""
    renamed: dict[str, str] = {}
    for initializer in file.graph.initializer:
        if initializer.name.startswith(CONSTANTS):
            renamed[initializer.name] = initializer.name.removeprefix(CONSTANTS)
            initializer.name = renamed[initializer.name]
    for node in file.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    for value in (*file.graph.value_info, *file.graph.input, *file.graph.output, *file.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del file.graph.metadata_props[:]
    del file.metadata_props[:]
    del file.functions[:]
    file.doc_string = file.graph.doc_string = ""
    _infer_types(file)


def _infer_types(file: onnx.ModelProto) -> None:
    """Recompute the types of intermediate values, whose names have changed."""
    del file.graph.value_info[:]
    file.CopyFrom(onnx.shape_inference.infer_shapes(file))


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    from deploy import onnx_translations

    return {
        quantize_dequantize: onnx_translations.quantize_dequantize,
        dequantize: onnx_translations.dequantize,
        dequantize_blocks: onnx_translations.dequantize_blocks,
        quant: onnx_translations.quant,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress lines on stdout and its loggers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
