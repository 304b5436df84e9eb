"""Engines and loaders for the latency tests; imported by worker processes as `latency_engines:load_...`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from bitwright.foundation.errors import UsageError
from deploy.engine import Engine, EngineSpec, ExecutedNode, Runtime

SPEC = EngineSpec(
    runtime=Runtime.ONNXRUNTIME, artefact="model.onnx", runtime_version="1", artefact_sha256="0" * 64, profile="x86"
)


class SpinEngine(Engine):
    """Spins for `spin_ms` of its own CPU time, whatever else runs here; the first `slow_runs` runs take `slow_ms` more.

    `trace`: a file that every run adds the folder's name to.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(SPEC, folder, threads)
        settings = json.loads((folder / "spin.json").read_text())
        self._spin = settings["spin_ms"] / 1e3
        self._slow_runs = settings.get("slow_runs", 0)
        self._slow = settings.get("slow_ms", 0.0) / 1e3
        self._fault = settings.get("fault", "")
        self._after = settings.get("after", 0)
        trace = settings.get("trace")
        # Opened once and written past Python's buffers: the run stays as long as its spin.
        self._trace = None if trace is None else os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._line = f"{folder.name}\n".encode()
        self._runs = 0

    def run(self, x: np.ndarray) -> np.ndarray:
        self._runs += 1
        if self._runs > self._after:
            self._misbehave()
        end = time.process_time() + self._spin + (self._slow if self._runs <= self._slow_runs else 0.0)
        while time.process_time() < end:
            pass
        if self._trace is not None:
            os.write(self._trace, self._line)
        return x * 2.0

    def _misbehave(self) -> None:
        if self._fault == "raise":
            raise RuntimeError("kernel 'conv_7' does not exist")
        if self._fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._fault == "exit":
            os._exit(7)
        if self._fault == "hang":
            sys.stderr.write("waiting for a lock\n")
            sys.stderr.flush()
            time.sleep(60)
        if self._fault == "sleep":
            time.sleep(self._spin)
        if self._fault == "chatter":
            os.write(1, b'{"reply": "exit"}\n' * 200)

    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        return ()


class OrtEngine(Engine):
    """ONNX Runtime on the CPU."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        super().__init__(SPEC, folder, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def run(self, x: np.ndarray) -> np.ndarray:
        output: np.ndarray = self._session.run(None, {self._input: x})[0]
        return output

    def executed_nodes(self) -> tuple[ExecutedNode, ...]:
        return ()


def load_spin(folder: Path, threads: int) -> Engine:
    return SpinEngine(folder, threads)


def load_ort(folder: Path, threads: int) -> Engine:
    return OrtEngine(folder, threads)


def load_refused(folder: Path, threads: int) -> Engine:
    raise UsageError(f"{folder.name}/engine.json: artefact_sha256 does not match")


def load_no_engine(folder: Path, threads: int) -> object:
    return {"threads": os.environ["OMP_NUM_THREADS"]}


class GpuEngine(SpinEngine):
    """Doubles its input on a GPU that is not there, in 2 ms of its clock."""

    def __init__(self, folder: Path, threads: int) -> None:
        from tests.deploy.fake_cuda import FakeCuda

        super().__init__(folder, threads)
        self._cuda = FakeCuda()
        self.use_cuda_graph(False)

    def use_cuda_graph(self, graph: bool = True) -> None:
        from deploy.engines.cuda_run import CudaRun
        from tests.deploy.fake_cuda import Doubling

        self._gpu = CudaRun(Doubling(self._cuda), graph=graph, cuda=self._cuda)

    def run(self, x: np.ndarray) -> np.ndarray:
        return self._gpu.run(super().run(x))

    def gpu_stages_ms(self) -> tuple[float, float, float] | None:
        return self._gpu.stages_ms()


def load_gpu(folder: Path, threads: int) -> Engine:
    return GpuEngine(folder, threads)
