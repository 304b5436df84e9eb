"""CudaRun: a network on a GPU, its copies and its computation timed apart by CUDA events.

Nothing of the GPU is changed for it: clocks and power limits stay what they are, and NVML tells what they were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np

from bitwright.foundation.errors import DeviceError, UsageError

Compute = Callable[[Any, int], Any]
"""Enqueues a network on the stream of a handle: from the input on the GPU to the output there, without waiting."""

EAGER_RUNS = 3
"""Runs before a capture, in which a library allocates and chooses what it must not during one (torch's CUDA notes)."""


def no_memory(what: str) -> DeviceError:
    """The error of a GPU that has no memory left for `what`."""
    return DeviceError(f"the GPU has no memory left for {what}; end what else uses it, or run smaller inputs")


class Cuda(ABC):
    """What a run needs of CUDA; buffers are float32 and have a `shape`, and one on the host has `numpy()`.

    `failure`: what is raised where CUDA refuses a call.
    """

    failure: ClassVar[type[Exception]]

    @abstractmethod
    def enough_memory(self, what: str) -> AbstractContextManager[None]:
        """DeviceError with what to do where the GPU has no memory for `what`."""

    @abstractmethod
    def stream(self) -> Any:
        """A stream of its own, because TensorRT synchronises the device around runs on the default one."""

    @abstractmethod
    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Make `stream` the one that work is enqueued on."""

    @abstractmethod
    def event(self) -> Any:
        """An event that tells time."""

    @abstractmethod
    def on_host(self, shape: tuple[int, ...]) -> Any:
        """A buffer that is locked in memory, so that copies need no other one."""

    @abstractmethod
    def on_device(self, shape: tuple[int, ...]) -> Any:
        """A buffer on the GPU."""

    @abstractmethod
    def copy(self, target: Any, source: Any) -> None:
        """Enqueue a copy on the current stream."""

    @abstractmethod
    def capture(self, stream: Any, enqueue: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """What `enqueue` puts on `stream` as a graph: the output that it fills, and what enqueues it once more."""


class CudaRun:
    """Runs a network on inputs [N, C, H, W] float32 in memory, one after the other.

    `graph`: capture the computation for each new shape and replay it; `capturable` tells of a stream, by its handle,
    whether the network can be captured on it now.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        graph: bool = False,
        capturable: Callable[[int], bool] = lambda handle: True,
        cuda: Cuda,
    ) -> None:
        self._cuda = cuda
        self._compute = compute
        self._graph = graph
        self._capturable = capturable
        self._stream = self._cuda.stream()
        self._events = tuple(self._cuda.event() for _ in range(4))
        self._given: Any = None
        self._source: Any = None
        self._made: Any = None
        self._enqueue: Callable[[], Any] = self._eager

    def run(self, x: np.ndarray) -> np.ndarray:
        """The output, float32.

        UsageError where a graph is asked for and the network cannot be captured, DeviceError where the GPU has no
        memory left.
        """
        with self._cuda.enough_memory(f"an input of {list(x.shape)}"):
            return self._run(x)

    def _run(self, x: np.ndarray) -> np.ndarray:
        began, copied, computed, ended = self._events
        with self._cuda.on(self._stream):
            if self._given is None or tuple(self._given.shape) != x.shape:
                self._prepare(x.shape)
            self._given.numpy()[...] = x
            began.record(self._stream)
            self._cuda.copy(self._source, self._given)
            copied.record(self._stream)
            output = self._enqueue()
            computed.record(self._stream)
            if self._made is None or self._made.shape != output.shape:
                self._made = self._cuda.on_host(tuple(output.shape))
            self._cuda.copy(self._made, output)
            ended.record(self._stream)
        ended.synchronize()
        result: np.ndarray = self._made.numpy().copy()
        return result

    def stages_ms(self) -> tuple[float, float, float]:
        """Ms of the last run: the copy to the GPU, the computation, and the copy back.

        A stage that the processor enqueues more slowly than the GPU works it off holds the waiting as well.
        """
        began, copied, computed, ended = self._events
        return began.elapsed_time(copied), copied.elapsed_time(computed), computed.elapsed_time(ended)

    def _prepare(self, shape: tuple[int, ...]) -> None:
        # Only what could be prepared whole is taken for prepared by the next run.
        self._given = self._made = None
        given, self._source = self._cuda.on_host(shape), self._cuda.on_device(shape)
        self._enqueue = self._eager
        if self._graph:
            given.numpy()[...] = 0.0
            self._cuda.copy(self._source, given)
            self._enqueue = self._captured()
        self._given = given

    def _eager(self) -> Any:
        return self._compute(self._source, self._stream.cuda_stream)

    def _captured(self) -> Callable[[], Any]:
        for _ in range(EAGER_RUNS):
            self._eager()
        self._stream.synchronize()
        why = "it is not capturable for this shape"
        if self._capturable(self._stream.cuda_stream):
            try:
                with self._cuda.enough_memory("a CUDA graph of the network"):
                    output, replay = self._cuda.capture(self._stream, self._eager)
            except self._cuda.failure as error:
                why = (str(error).strip() or type(error).__name__).splitlines()[0]
            else:
                return lambda: (replay(), output)[1]
        raise UsageError(f"the network cannot be captured as a CUDA graph ({why}); run it without one")
