"""The exporter's table of operators, read once in a process of tests.

torch reads it anew from onnxscript's sources for each file, which takes longer than a small network's export.
"""

from __future__ import annotations

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry

_read = ONNXRegistry.from_torchlib


@cache
def _table(opset: int) -> ONNXRegistry:
    return _read(opset)


def _copy(opset_version: int = ONNXRegistry().opset_version) -> ONNXRegistry:
    """A table of its own, as exports add operators to theirs."""
    known, copy = _table(opset_version), ONNXRegistry()
    copy._opset_version = known.opset_version
    copy.functions = {target: list(found) for target, found in known.functions.items()}
    return copy


@cache
def read_once() -> None:
    """Have all later exports of this process copy the table that the next one reads."""
    ONNXRegistry.from_torchlib = staticmethod(_copy)  # type: ignore[method-assign,assignment]
