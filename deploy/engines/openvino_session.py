"""A network in OpenVINO on the CPU. Needs nothing but the runtime and numpy, so that it also runs on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bitwright.foundation.errors import UsageError
from deploy.engines.runtime_packages import import_runtime
from deploy.runtimes import FloatPrecision, Runtime

_HINTS = {FloatPrecision.FP32: "f32", FloatPrecision.BF16: "bf16"}


class OpenVinoSession:
    """One ONNX file compiled for one stream, the float precision always stated and nothing cached on disk.

    `shape`, [N, C, H, W]: what it is specialised on; other shapes run too, at general speed. UsageError where the file
    cannot be loaded.
    """

    def __init__(
        self, path: Path, threads: int, float_precision: FloatPrecision, shape: tuple[int, ...] | None = None
    ) -> None:
        if float_precision not in _HINTS:
            raise UsageError(f"OpenVINO is not asked for {float_precision} on CPUs; use fp32 or bf16")
        self._path = path
        self._shape = shape
        self.options = {
            "INFERENCE_PRECISION_HINT": _HINTS[float_precision],
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
        }
        self._compiled: Any = self.compile(shape)
        self._request = self._compiled.create_infer_request()
        self._general: Any = None if shape is not None else self._compiled
        self._general_request: Any = None if shape is not None else self._request

    def compile(self, shape: tuple[int, ...] | None, *, profiled: bool = False) -> Any:
        """Compile the file anew, for `shape` or for any."""
        core = import_runtime(Runtime.OPENVINO).Core()
        try:
            network = core.read_model(str(self._path))
            if shape is not None:
                network.reshape(list(shape))
            return core.compile_model(network, "CPU", self.options | ({"PERF_COUNT": "YES"} if profiled else {}))
        except RuntimeError as error:
            raise UsageError(f"OpenVINO cannot load {self._path}: {reason(error)}") from error

    @property
    def network(self) -> Any:
        """The compiled network, specialised on the shape if there is one."""
        return self._compiled

    def compiled(self) -> tuple[Any, ...]:
        """The compiled networks: the specialised one, if there is one, and the general one."""
        if self._general is None:
            self._general = self.compile(None)
        return (self._compiled,) if self._general is self._compiled else (self._compiled, self._general)

    def _request_for(self, shape: tuple[int, ...]) -> Any:
        """The specialised request if it takes the shape; else the general one, compiled when it is first needed."""
        if shape == self._shape:
            return self._request
        if self._general_request is None:
            self._general_request = self.compiled()[-1].create_infer_request()
        return self._general_request

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32; UsageError when the network does not take that shape."""
        if x.dtype != np.float32:
            raise UsageError(f"OpenVINO cannot run {x.dtype} {list(x.shape)}: the network takes float32")
        try:
            output: np.ndarray = self._request_for(x.shape).infer([x], share_inputs=True)[0]
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"OpenVINO cannot run {x.dtype} {list(x.shape)}: {reason(error)}") from error
        return output


def reason(error: Exception) -> str:
    """The last line that says something: OpenVINO prints its source locations first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
