"""LiteRT on the CPU: a TFLite file that was compiled from the exported ONNX file, run by XNNPACK.

A TFLite file is for one input shape, because a network that resizes to the size of another tensor has that size as a
constant. The artefact is for the shape that is used most; for others the ONNX file beside it is compiled in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np

from bitwright.foundation.errors import UsageError
from deploy.engine import Engine, EngineSpec, ExecutedNode
from deploy.engines.exported_graph import ExportedGraph
from deploy.engines.litert_nodes import Executed, executed_nodes
from deploy.engines.litert_session import LiteRtSession
from deploy.tflite import compile_file

_KEPT = 4
"""Networks for other shapes that stay loaded, those that were used last; each holds all weights."""


class LiteRtEngine(Engine):
    """LiteRT with its default delegate, one thread pool of `threads`."""

    def __init__(self, spec: EngineSpec, folder: Path, threads: int) -> None:
        super().__init__(spec, folder, threads)
        self._content = (folder / spec.artefact).read_bytes()
        self._own = LiteRtSession(self._content, threads, spec.float_precision, name=str(folder / spec.artefact))
        self._others: OrderedDict[tuple[int, ...], LiteRtSession] = OrderedDict()
        self._source_checked = False
        if spec.input_shape is not None:
            self._session(spec.input_shape)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32; UsageError when the network does not take that shape."""
        if x.dtype != np.float32:
            raise UsageError(f"LiteRT cannot run {x.dtype} {list(x.shape)}: the network takes float32")
        return self._session(x.shape).run(x)

    def file_for(self, shape: tuple[int, ...]) -> bytes:
        """The TFLite file for one shape: the artefact, or what the ONNX file beside it gives."""
        return self._content if shape == self._own.shape else self._compile(shape)

    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        """The operators of the artefact, as the interpreter holds them after XNNPACK took over what it can."""
        exported = ExportedGraph.read(self.folder / self.spec.onnx)
        return executed_nodes(Executed.model_validate(self._own.executed()), exported.nodes)

    def _session(self, shape: tuple[int, ...]) -> LiteRtSession:
        """The network for a shape, compiled when it is first needed."""
        if shape == self._own.shape:
            return self._own
        if shape not in self._others:
            name = f"{self.folder / self.spec.onnx} for {list(shape)}"
            self._others[shape] = LiteRtSession(
                self._compile(shape), self.threads, self.spec.float_precision, name=name
            )
            if len(self._others) > _KEPT:
                self._others.popitem(last=False)
        self._others.move_to_end(shape)
        return self._others[shape]

    def _compile(self, shape: tuple[int, ...]) -> bytes:
        source = self.folder / self.spec.onnx
        if not self._source_checked:
            # The stamp is of the artefact: what makes the same artefact again is what it was made from.
            if compile_file(source, self._own.shape) != self._content:
                raise UsageError(f"{source} is not what {self.spec.artefact} was compiled from; rebuild the engine")
            self._source_checked = True
        try:
            return compile_file(source, shape)
        except UsageError as error:
            raise UsageError(f"LiteRT cannot run float32 {list(shape)}: {error}") from error
