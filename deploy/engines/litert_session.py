"""A network in LiteRT on the CPU. Needs nothing but the runtime and numpy, so that it also runs on a device."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.foundation.errors import UsageError
from bitwright.foundation.optional import require
from deploy.engines.runtime_packages import import_runtime
from deploy.runtimes import FloatPrecision, Runtime


class LiteRtSession:
    """One TFLite file loaded, with its default delegate XNNPACK; it takes inputs of the one shape that it is for.

    UsageError where the file cannot be loaded; `name`: what the message calls it.
    """

    def __init__(
        self, content: bytes, threads: int, float_precision: FloatPrecision = FloatPrecision.FP32, *, name: str
    ) -> None:
        if float_precision is not FloatPrecision.FP32:
            raise UsageError(f"LiteRT has no {float_precision} kernels on the CPU; use fp32, or the openvino runtime")
        import_runtime(Runtime.LITERT)
        module: Any = require("ai_edge_litert.interpreter", extra="edge")
        try:
            with _quiet():
                self._interpreter: Any = module.Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"LiteRT cannot load {name}: {reason(error)}") from error
        given, made = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        self._given, self._made = int(given["index"]), int(made["index"])
        self.shape: tuple[int, ...] = tuple(int(size) for size in given["shape"])

    @staticmethod
    def read(path: Path, threads: int, float_precision: FloatPrecision, shape: tuple[int, ...] | None) -> LiteRtSession:
        """Load a file. What the network is mostly run on decides nothing here: a file is for one shape."""
        del shape
        return LiteRtSession(path.read_bytes(), threads, float_precision, name=str(path))

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of the shape [N, C, H, W] that the file is for, float32; UsageError for any other."""
        if x.dtype != np.float32 or x.shape != self.shape:
            raise UsageError(f"LiteRT cannot run {x.dtype} {list(x.shape)}: the file takes float32 {list(self.shape)}")
        try:
            self._interpreter.set_tensor(self._given, x)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"LiteRT cannot run {x.dtype} {list(x.shape)}: {reason(error)}") from error
        output: np.ndarray = self._interpreter.get_tensor(self._made)
        return output

    def executed(self) -> dict[str, Any]:
        """The operators that the runtime executes, and the tensors that they read and make: see `litert_nodes`."""
        operators: list[dict[str, object]] = []
        used: set[int] = set()
        for found in self._interpreter._get_ops_details():
            ends = {side: [int(tensor) for tensor in found[side] if tensor >= 0] for side in ("inputs", "outputs")}
            operators.append({"index": int(found["index"]), "op_name": str(found["op_name"]), **ends})
            used.update(*ends.values())
        tensors = {}
        for tensor in sorted(used):
            found = self._interpreter._get_tensor_details(tensor, 0)
            tensors[tensor] = {"name": str(found["name"]), "dtype": np.dtype(found["dtype"]).name}
        return {"operators": operators, "tensors": tensors}

    def write_executed(self, path: Path) -> None:
        """Write what is executed to `path` as JSON."""
        path.write_text(json.dumps(self.executed()), encoding="utf-8")


def reason(error: Exception) -> str:
    """The message of an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines) if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the line that the runtime prints on stderr, past Python, whenever it makes its delegate."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
