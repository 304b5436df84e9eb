"""QONNX: the file that FPGA flows such as FINN and hls4ml read, run here by qonnx's reference executor.

The executor is for verification: it runs node by node, and its time says nothing of the device. What a layer executes
in is what its Quant nodes say, because that is what an FPGA flow builds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bitwright.foundation.errors import UsageError
from deploy.engine import Engine, EngineSpec, ExecutedNode, FloatPrecision
from deploy.engines.qonnx_session import QonnxSession
from deploy.onnx_layers import LAYER_OPS, node_key

CHECKED_SIDE = 64
"""Height and width that a file of any size is checked at where the engine states none."""

_PASSED = frozenset({"Transpose", "Reshape", "Identity"})
_FLOAT = "fp32"


class QonnxEngine(Engine):
    """qonnx's executor on the CPU; `threads` is of no effect on it. UsageError where the file fails qonnx's checks."""

    def __init__(self, spec: EngineSpec, folder: Path, threads: int) -> None:
        super().__init__(spec, folder, threads)
        if spec.float_precision is not FloatPrecision.FP32:
            raise UsageError(f"qonnx's executor computes floats in fp32 only, not in {spec.float_precision}")
        self._session = QonnxSession(folder / spec.artefact)
        shape = spec.input_shape or (1, 1, CHECKED_SIDE, CHECKED_SIDE)
        self._checked: Any = self._session.check(self._session.shape_like(shape))

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32; UsageError when the network does not take that shape."""
        return self._session.run(x)

    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        """The nodes of the file; a layer's precision is read from the bit widths of its input and its weight."""
        return tuple(
            ExecutedNode(
                name=node_key(node),
                op=node.op_type,
                precision=self._precision(node),
                kernel=f"{node.domain or 'ai.onnx'}.{node.op_type}",
                origins=(node_key(node),),
            )
            for node in self._checked.graph.node
        )

    def _precision(self, node: onnx.NodeProto) -> str:
        if node.op_type not in LAYER_OPS:
            own = self._bits(node)
            return _FLOAT if own is None else f"int{own}"
        activation, weight = (self._width(tensor) for tensor in node.input[:2])
        if activation is None or weight is None:
            return _FLOAT
        return f"int{weight}" if weight == activation else f"w{weight}a{activation}"

    def _width(self, tensor: str) -> int | None:
        """Bits of the quantiser that makes a tensor; None where it is a float."""
        node = self._checked.find_producer(tensor)
        while node is not None and node.op_type in _PASSED:
            node = self._checked.find_producer(node.input[0])
        return None if node is None else self._bits(node)

    def _bits(self, node: onnx.NodeProto) -> int | None:
        if node.op_type == "Quant":
            return int(self._checked.get_initializer(node.input[3]))
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            zero = self._checked.get_initializer(node.input[2])
            return 8 * int(zero.dtype.itemsize)
        return None
