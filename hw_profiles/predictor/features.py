"""What of a kernel its time depends on, as numbers: amounts that times are sums of, and shapes that bend the rates."""

from __future__ import annotations

import math

from hw_profiles.kernel import Kernel, TensorType

SIMD = 16
"""Channels are rounded up to the float lanes of a 512-bit register, as kernels with blocked weights compute them."""

L2_BYTES = 2**20
"""Where tensors stop fitting in the cache of one core; only bends a curve, so its exact size does not matter."""


def family(kernel: Kernel) -> str:
    """What kernels are compared with each other: one operator in one precision; convolutions also by kind."""
    if not kernel.macs:
        return f"{kernel.op} {kernel.mode} {kernel.precision}" if kernel.mode else f"{kernel.op} {kernel.precision}"
    window = kernel.window or (1, 1)
    kind = "grouped" if (kernel.groups or 1) > 1 else "pointwise" if window == (1, 1) else "spatial"
    return f"{kernel.op} {kernel.precision} {kind}"


def amounts(kernel: Kernel) -> dict[str, float]:
    """Amounts of work, none negative, that add up: a kernel twice as large has twice of each, save `calls`.

    `far_bytes` are those that do not fit in the second-level cache, `padded_macs` count whole SIMD registers.
    """
    read, written = _bytes(kernel.inputs), _bytes(kernel.outputs)
    moved = read + written
    elements = float(sum(tensor.elements for tensor in kernel.outputs))
    found = {
        "calls": 1.0,
        "read_bytes": read,
        "written_bytes": written,
        "far_bytes": max(0.0, moved - L2_BYTES),
        "output_elements": elements,
        "fused_elements": elements * len(kernel.fused),
        "read_elements": float(sum(tensor.elements for tensor in kernel.inputs)),
    }
    if kernel.macs:
        source, sink = _channels(kernel.inputs), _channels(kernel.outputs)
        groups = kernel.groups or 1
        padding = _rounded(sink / groups) / (sink / groups)
        found["macs"] = float(kernel.macs)
        found["padded_macs"] = kernel.macs * padding
        found["padded_both_macs"] = kernel.macs * padding * _rounded(source / groups) / (source / groups)
        found["weights"] = float(kernel.weight_elements)
    return found


def shape(kernel: Kernel) -> dict[str, float]:
    """Logarithms, remainders and flags that efficiency depends on."""
    window = kernel.window or (1, 1)
    groups = kernel.groups or 1
    source, sink = _channels(kernel.inputs), _channels(kernel.outputs)
    read, written = _bytes(kernel.inputs), _bytes(kernel.outputs)
    positions = _positions(kernel.outputs)
    found = {
        "log_macs": math.log1p(kernel.macs),
        "log_bytes": math.log1p(read + written),
        "log_read": math.log1p(read),
        "log_written": math.log1p(written),
        "log_positions": math.log1p(positions),
        "log_source_positions": math.log1p(_positions(kernel.inputs)),
        "width": float(kernel.outputs[0].shape[-1]) if kernel.outputs and kernel.outputs[0].shape else 1.0,
        "log_channels_in": math.log1p(source),
        "log_channels_out": math.log1p(sink),
        "channels_in_lanes": (source / groups) % SIMD,
        "channels_out_lanes": (sink / groups) % SIMD,
        "window": float(window[0] * window[1]),
        "stride": float((kernel.stride or (1, 1))[0]),
        "groups": math.log1p(groups),
        "inputs": float(len(kernel.inputs)),
        "outputs": float(len(kernel.outputs)),
        "fused": float(len(kernel.fused)),
        "width_in": read / max(1.0, sum(tensor.elements for tensor in kernel.inputs)),
        "width_out": written / max(1.0, sum(tensor.elements for tensor in kernel.outputs)),
        "reordered": float(_layout(kernel.inputs) != _layout(kernel.outputs)),
        "channels_last": float(_layout(kernel.inputs) == "acdb"),
    }
    for op in kernel.fused:
        found[f"fused_{op}"] = found.get(f"fused_{op}", 0.0) + 1.0
    return found


def _bytes(tensors: tuple[TensorType, ...]) -> float:
    return sum(tensor.bytes for tensor in tensors)


def _channels(tensors: tuple[TensorType, ...]) -> float:
    return float(tensors[0].shape[1]) if tensors and len(tensors[0].shape) > 1 else 1.0


def _positions(tensors: tuple[TensorType, ...]) -> float:
    if not tensors:
        return 1.0
    dimensions = tensors[0].shape
    return float(math.prod(dimensions[:1]) * math.prod(dimensions[2:]))


def _layout(tensors: tuple[TensorType, ...]) -> str:
    return tensors[0].layout if tensors else ""


def _rounded(channels: float) -> float:
    return math.ceil(channels / SIMD) * SIMD
