"""Exporting a network as one file for other tools."""

from __future__ import annotations

from pathlib import Path

from bitwright.foundation.errors import UsageError
from bitwright.runs.reopen import compressed_network, reopened
from compress.graph import capture
from deploy.onnx_export import export_float, export_qonnx, export_quantized
from workloads.loading import load_checkpoint

EXPORTERS = {"onnx": export_quantized, "qonnx": export_qonnx}
NAMES = {"onnx": "export.onnx", "qonnx": "export.qonnx.onnx"}
"""The formats, and the file that a run's network is written to without --out."""


def export(source: Path, *, form: str, out: Path | None, model: str | None, scale: int | None) -> Path:
    """Write a run's compressed network, or a checkpoint's float network; returns the path of the file.

    `form`: onnx, with Q/DQ pairs, or qonnx, with Quant nodes of the plan's own widths, for runs only.
    """
    if form not in EXPORTERS:
        raise UsageError(f"cannot export to {form!r}; the formats are: {', '.join(EXPORTERS)}")
    if source.is_dir():
        path = out or source / NAMES[form]
        with reopened(source) as job:
            EXPORTERS[form](compressed_network(job), job.example, path)
        return path
    if form != "onnx":
        raise UsageError(f"{form} is for compressed networks; give the folder of a run instead of {source}")
    loaded = load_checkpoint(source, model=model, scale=scale)
    example = loaded.workload.traced_at()
    path = out or source.with_suffix(".onnx")
    export_float(capture(loaded.module, example, one_size=loaded.workload.takes_one_size), example, path)
    return path
