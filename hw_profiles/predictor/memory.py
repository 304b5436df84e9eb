"""Peak memory of an inference, computed from the kernels' tensors: weights, and activations while they are live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hw_profiles.kernel import Kernel, TensorType

_WEIGHT_BYTES = {"int8": 1.0, "int4": 0.5, "bf16": 2.0, "fp16": 2.0}


@dataclass
class _Live:
    tensor: TensorType
    made: int
    last_read: int | None = None


def peak_memory_bytes(kernels: Sequence[Kernel]) -> int:
    """Weights of all kernels + the largest sum of live activations, bytes. The runtime's own code is not in it.

    Kernels do not say which tensors they share. Each input is taken to be an earlier output of the same type: one that
    nothing has read yet if there is one, the latest first. A tensor lives from the kernel that makes it to the last
    that reads it; one that is never read is the network's output and lives to the end.
    """
    weights = sum(kernel.weight_elements * _WEIGHT_BYTES.get(kernel.precision, 4.0) for kernel in kernels)
    tensors: list[_Live] = []
    for step, kernel in enumerate(kernels):
        taken: list[int] = []
        for tensor in kernel.inputs:
            source = _source(tensors, tensor, taken)
            if source is None:
                tensors.append(_Live(tensor, -1))
                source = len(tensors) - 1
            tensors[source].last_read = step
            taken.append(source)
        tensors += [_Live(tensor, step) for tensor in kernel.outputs]
    end = len(kernels)
    changes = [0.0] * (end + 1)
    for live in tensors:
        changes[max(live.made, 0)] += live.tensor.bytes
        changes[end if live.last_read is None else live.last_read + 1] -= live.tensor.bytes
    total = peak = 0.0
    for change in changes[:end]:
        total += change
        peak = max(peak, total)
    return round(weights + peak)


def _source(tensors: Sequence[_Live], wanted: TensorType, taken: Sequence[int]) -> int | None:
    same = [k for k, live in enumerate(tensors) if live.tensor == wanted and k not in taken]
    unread = [k for k in same if tensors[k].last_read is None]
    return max(unread or same, default=None)
