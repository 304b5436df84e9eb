"""The stand-in for the library of NVIDIA's driver, compiled, and networks that it runs; see `fake_driver.cpp`."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from ctypes import c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from deploy.engines.cuda_driver import DriverCuda

COPY_MS, CALL_MS = 0.25, 2.0
_FUNCTION = ctypes.CFUNCTYPE(None, c_void_p)


def compile_driver(folder: Path) -> Path:
    """The library in `folder`, under the name that the driver's has."""
    target = folder / "libcuda.so.1"
    source = Path(__file__).with_name("fake_driver.cpp")
    subprocess.run(["g++", "-std=c++17", "-shared", "-fPIC", "-o", target, source], check=True, timeout=120)
    return target


class Machine:
    """The library as the test loads it: what it holds, and what it launches."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self._loaded = ctypes.CDLL(str(library))
        self._loaded.cuLaunchHostFunc.argtypes = [c_void_p, _FUNCTION, c_void_p]
        self._loaded.fake_device_bytes.restype = ctypes.c_size_t
        self._loaded.fake_host_buffers.restype = ctypes.c_size_t
        self._kept: list[Any] = []

    @property
    def held(self) -> tuple[int, int, int]:
        """Handles, bytes on the GPU, and buffers on the host that nobody has given back."""
        return self._loaded.fake_live(), self._loaded.fake_device_bytes(), self._loaded.fake_host_buffers()

    def launch(self, stream: int, work: Callable[[], None]) -> None:
        """Enqueue work that takes `CALL_MS`."""
        self._kept.append(_FUNCTION(lambda given: work()))
        assert self._loaded.cuLaunchHostFunc(stream, self._kept[-1], None) == 0


def on_device(address: int, shape: tuple[int, ...]) -> np.ndarray:
    """Memory of the GPU, which is that of the processor."""
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


class Doubling:
    """A network of one kernel that doubles its input; `enqueued`: how often it was."""

    def __init__(self, machine: Machine, cuda: DriverCuda, waits_for: Any = None) -> None:
        self._machine, self._cuda, self._waits_for = machine, cuda, waits_for
        self._bound: tuple[Any, Any] = (None, None)
        self.enqueued = 0

    def __call__(self, source: Any, stream: int) -> Any:
        self.enqueued += 1
        if self._bound[0] is not source:
            self._bound = source, self._cuda.on_device(source.shape)
        output = self._bound[1]
        begin, end, shape = source.data_ptr(), output.data_ptr(), source.shape
        self._machine.launch(stream, lambda: np.multiply(on_device(begin, shape), 2, out=on_device(end, shape)))
        if self._waits_for is not None:
            self._waits_for.synchronize()
        return output
