"""Kernels: what an engine really executes at an input shape, in the words that latency is measured and predicted in."""

from __future__ import annotations

import math

import numpy as np

from deploy.engine import Engine, ExecutedCall
from deploy.engines.exported_graph import ExportedGraph, computes_layer
from hw_profiles.kernel import Kernel

RESIZES = frozenset({"Interpolate", "Resize", "Upsample"})
"""What the runtimes call the kernels that resize."""


def executed_kernels(engine: Engine, input_shape: tuple[int, ...]) -> tuple[Kernel, ...]:
    """All kernels of one inference in the order of execution, each call once; `input_shape`: [N, C, H, W].

    One inference is run, because only then a runtime tells what it executes. Nothing is timed.
    """
    x = np.zeros(input_shape, dtype=np.float32)
    calls = engine.time_calls(x, warm_up=0, runs=1, blocks=1).calls
    return kernels_of(calls, ExportedGraph.read(engine.folder / engine.spec.artefact))


def kernels_of(calls: tuple[ExecutedCall, ...], exported: ExportedGraph) -> tuple[Kernel, ...]:
    """The kernels of executed calls; `exported`: the file that their engine was built from."""
    names = {node: layer for layer, node in exported.layers.items()}
    return tuple(_kernel(call, exported, names) for call in calls)


def _kernel(call: ExecutedCall, exported: ExportedGraph, names: dict[str, str]) -> Kernel:
    computed = [origin for origin in call.origins if origin in names] if computes_layer(call.op) else []
    others = [exported.nodes[origin].op_type for origin in call.origins if origin not in computed]
    shapes = [exported.shapes[origin] for origin in computed if origin in exported.shapes]
    single = shapes[0] if len(shapes) == 1 else None
    return Kernel(
        op=call.op,
        precision=call.precision,
        inputs=call.inputs,
        outputs=call.outputs,
        window=None if single is None else single.window,
        stride=None if single is None else single.stride,
        groups=None if single is None else single.groups,
        macs=sum(shape.weights * _positions(call, shape.transposed, shape.linear) for shape in shapes),
        weight_elements=sum(shape.weights for shape in shapes),
        fused=tuple(sorted(op for op in others if op != call.op)),
        mode=_resize_mode(call, exported),
        layers=tuple(names[origin] for origin in computed),
        implementation=call.kernel,
    )


def _resize_mode(call: ExecutedCall, exported: ExportedGraph) -> str:
    """Interpolation of a resize; a reordering around it also names the resize as its origin, but does not resize."""
    if call.op not in RESIZES:
        return ""
    return next((mode for origin in call.origins if (mode := exported.resize_mode(origin))), "")


def _positions(call: ExecutedCall, transposed: bool, linear: bool) -> int:
    """How often each weight is used: once for each position of the output, or of a transposed convolution's input."""
    shape = (call.inputs if transposed else call.outputs)[0].shape
    return math.prod(shape[:-1]) if linear else shape[0] * math.prod(shape[2:])
