"""DriverCuda: streams, events, buffers and graphs of a run by NVIDIA's driver alone. Needs Python and numpy.

The context is the device's primary one, which the CUDA runtime inside TensorRT uses as well; like that, it is kept
until the process ends.
"""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_float, c_ulonglong, c_void_p
from typing import Any

import numpy as np

from deploy.cuda_library import OUT_OF_MEMORY, CudaError, CudaLibrary
from deploy.engines.cuda_run import Cuda, no_memory

_NON_BLOCKING = 1
_THREAD_LOCAL = 1
"""CU_STREAM_NON_BLOCKING, and CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do disturbs no capture."""

_ITEM = np.dtype(np.float32).itemsize


class _Owned:
    """Something that CUDA has given; it is given back by `function` when nobody holds it any more."""

    def __init__(self, cuda: DriverCuda, handle: int, function: str) -> None:
        self._cuda = cuda
        self.handle = handle
        # At exit the driver may have ended before; what it gave ends with the process.
        weakref.finalize(self, cuda.release, function, handle).atexit = False


class Stream(_Owned):
    """A queue of work on the GPU."""

    @property
    def cuda_stream(self) -> int:
        """Its handle."""
        return self.handle

    def synchronize(self) -> None:
        """Wait until all of its work is done."""
        self._cuda.call("cuStreamSynchronize", self.handle)


class Event(_Owned):
    """The moment at which a stream gets to it."""

    def record(self, stream: Stream) -> None:
        """Enqueue it."""
        self._cuda.call("cuEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait until the stream has got to it."""
        self._cuda.call("cuEventSynchronize", self.handle)

    def elapsed_time(self, end: Event) -> float:
        """Ms from this moment to the other."""
        passed = c_float()
        self._cuda.call("cuEventElapsedTime", byref(passed), self.handle, end.handle)
        return passed.value


class Buffer(_Owned):
    """Float32 values of `shape`."""

    def __init__(self, cuda: DriverCuda, shape: tuple[int, ...], address: int, function: str) -> None:
        super().__init__(cuda, address, function)
        self.shape = shape

    @property
    def bytes(self) -> int:
        """Its size."""
        return bytes_of(self.shape)

    def data_ptr(self) -> int:
        """Its address."""
        return self.handle


class HostBuffer(Buffer):
    """One that is locked in the memory of this machine."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": self.shape, "typestr": "<f4", "data": (self.handle, False)}

    def numpy(self) -> np.ndarray:
        """Its values, not copied; the array keeps the buffer."""
        return np.asarray(self)


class DeviceBuffer(Buffer):
    """One on the GPU."""


class DriverCuda(Cuda):
    """CUDA by `library`, on the first GPU. DeviceError where there is no driver, no GPU, or no memory for a context."""

    failure = CudaError

    def __init__(self, library: CudaLibrary | None = None) -> None:
        self._library = CudaLibrary() if library is None else library
        self._entered = threading.local()
        self._current: Stream | None = None
        self._context = c_void_p()
        device = self._library.device()
        with self.enough_memory("a CUDA context"):
            self._library.call("cuDevicePrimaryCtxRetain", byref(self._context), device)
        self._enter()

    @contextmanager
    def enough_memory(self, what: str) -> Iterator[None]:
        """See `Cuda.enough_memory`."""
        try:
            yield
        except CudaError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            raise no_memory(what) from error

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the driver in the context; CudaError where it refuses."""
        self._enter()
        self._library.call(function, *arguments)

    def release(self, function: str, handle: int) -> None:
        """Give something back, from whatever thread; what cannot be given back has ended with its context."""
        self._library.call_quietly("cuCtxSetCurrent", self._context)
        self._library.call_quietly(function, handle)

    def stream(self) -> Stream:
        """See `Cuda.stream`."""
        return Stream(self, self._new("cuStreamCreate", _NON_BLOCKING), "cuStreamDestroy_v2")

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """See `Cuda.on`."""
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    def event(self) -> Event:
        """See `Cuda.event`."""
        return Event(self, self._new("cuEventCreate", 0), "cuEventDestroy_v2")

    def on_host(self, shape: tuple[int, ...]) -> HostBuffer:
        """See `Cuda.on_host`."""
        return HostBuffer(self, shape, self._new("cuMemAllocHost_v2", bytes_of(shape)), "cuMemFreeHost")

    def on_device(self, shape: tuple[int, ...]) -> DeviceBuffer:
        """See `Cuda.on_device`."""
        address = c_ulonglong()
        self.call("cuMemAlloc_v2", byref(address), bytes_of(shape))
        return DeviceBuffer(self, shape, address.value, "cuMemFree_v2")

    def copy(self, target: Buffer, source: Buffer) -> None:
        """See `Cuda.copy`; one of the two is on the GPU."""
        function = "cuMemcpyHtoDAsync_v2" if isinstance(target, DeviceBuffer) else "cuMemcpyDtoHAsync_v2"
        self.call(function, target.handle, source.handle, target.bytes, self._handle)

    def capture(self, stream: Stream, enqueue: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """See `Cuda.capture`."""
        # Memory that is given back during a capture spoils it.
        gc.collect()
        graph = c_void_p()
        self.call("cuStreamBeginCapture_v2", stream.handle, _THREAD_LOCAL)
        try:
            output = enqueue()
        except BaseException:
            # A stream that goes on capturing takes no more work; that its capture has failed as well is known.
            self._library.call_quietly("cuStreamEndCapture", stream.handle, byref(graph))
            if graph.value is not None:
                self.release("cuGraphDestroy", graph.value)
            raise
        self.call("cuStreamEndCapture", stream.handle, byref(graph))
        try:
            made = _Owned(self, self._new("cuGraphInstantiateWithFlags", graph, 0), "cuGraphExecDestroy")
        finally:
            self.release("cuGraphDestroy", graph.value or 0)
        return output, lambda: self.call("cuGraphLaunch", made.handle, self._handle)

    @property
    def _handle(self) -> int | None:
        """Of the stream that work is enqueued on; None: the default one."""
        return None if self._current is None else self._current.handle

    def _new(self, function: str, *arguments: Any) -> int:
        """The handle that a function gives."""
        made = c_void_p()
        self.call(function, byref(made), *arguments)
        return made.value or 0

    def _enter(self) -> None:
        """Make the context that of this thread, once."""
        if not getattr(self._entered, "done", False):
            self._library.call("cuCtxSetCurrent", self._context)
            self._entered.done = True


def bytes_of(shape: tuple[int, ...]) -> int:
    """Of a buffer of float32."""
    return math.prod(shape) * _ITEM
