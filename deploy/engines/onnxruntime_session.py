"""A network in ONNX Runtime on the CPU. Needs nothing but the runtime and numpy, so that it also runs on a device."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitwright.foundation.errors import UsageError
from bitwright.foundation.optional import require
from deploy.engines.runtime_packages import import_runtime
from deploy.runtimes import FloatPrecision, Runtime

UNPLANNED = ("WeightBiasQuantization",)
"""Optimisers that change what was planned: this one (microsoft/onnxruntime#22969) rounds weights of a layer that the
plan leaves in float to 8 bits, where its input and output are quantised."""


_WEIGHT_BYTES = 1024
"""From this size on a constant of an optimised graph is kept apart from it."""


def session_options(threads: int) -> dict[str, str]:
    """The session options that decide speed."""
    options = {"intra_op_num_threads": str(threads), "graph_optimization_level": "all"}
    if threads > 1:
        # Spinning workers slow whatever else runs on a shared machine, and this runtime itself.
        options["session.intra_op.allow_spinning"] = "0"
    return options


class OnnxRuntimeSession:
    """One ONNX file loaded with all graph optimisations; UsageError where it cannot be loaded."""

    def __init__(
        self,
        path: Path,
        threads: int,
        float_precision: FloatPrecision = FloatPrecision.FP32,
        *,
        optimized: Path | None = None,
        events: Path | None = None,
    ) -> None:
        """`optimized`: where the session writes its graph to, `events`: its profiler's file less a suffix.

        The weights of that graph go to a file beside it; they tell nothing of what is executed.
        """
        if float_precision is not FloatPrecision.FP32:
            raise UsageError(
                f"ONNX Runtime has no {float_precision} kernels on the CPU; use fp32, or the openvino runtime"
            )
        self._path, self._threads = path, threads
        runtime = import_runtime(Runtime.ONNXRUNTIME)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        for key, value in session_options(threads).items():
            if key.startswith("session."):
                options.add_session_config_entry(key, value)
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
            weights = {"file_name": f"{optimized.name}.weights", "min_size_in_bytes": str(_WEIGHT_BYTES)}
            for key, value in weights.items():
                options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
        if events is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(events)
        self._errors = _errors()
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=[*UNPLANNED]
            )
        except self._errors as error:
            raise UsageError(f"ONNX Runtime cannot load {path}: {_first_line(error)}") from error
        self._input = self._session.get_inputs()[0].name

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run one batch of shape [N, C, H, W] float32; UsageError when the network does not take that shape."""
        try:
            output: np.ndarray = self._session.run(None, {self._input: x})[0]
        except self._errors as error:
            raise UsageError(f"ONNX Runtime cannot run {x.dtype} {list(x.shape)}: {_first_line(error)}") from error
        return output

    def write_executed(self, path: Path) -> None:
        """Write the graph that the runtime executes, as it optimises the file under the same options, to `path`."""
        OnnxRuntimeSession(self._path, self._threads, optimized=path)

    def end_profiling(self) -> Path:
        """Stop the profiler; returns the file with its events."""
        return Path(self._session.end_profiling())


def _errors() -> tuple[type[Exception], ...]:
    state = require("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return (*(getattr(state, name) for name in names), state.RuntimeException, ValueError)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
