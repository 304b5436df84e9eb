"""Exporting a network as one file for other tools."""

from __future__ import annotations

from pathlib import Path

from bitwright.foundation.errors import UsageError
from bitwright.runs.job import TRACE_SIDE
from bitwright.runs.reopen import compressed_network, reopened
from compress.graph import capture
from deploy.onnx_export import export_float, export_quantized
from workloads.loading import load_checkpoint


def export(source: Path, *, form: str, out: Path | None, model: str | None, scale: int | None) -> Path:
    """Write a run's compressed network, or a checkpoint's float network, as ONNX; returns the path of the file."""
    if form != "onnx":
        raise UsageError(f"cannot export to {form!r}; the formats are: onnx")
    if source.is_dir():
        path = out or source / "export.onnx"
        with reopened(source) as job:
            export_quantized(compressed_network(job), job.example, path)
        return path
    loaded = load_checkpoint(source, model=model, scale=scale)
    side = max(TRACE_SIDE, loaded.workload.min_input_side)
    example = loaded.workload.example_input(side, side)
    path = out or source.with_suffix(".onnx")
    export_float(capture(loaded.module, example), example, path)
    return path
