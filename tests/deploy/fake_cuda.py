"""CUDA without a GPU: streams that run what is enqueued when somebody waits for them, on a clock that ops advance.

As CUDA's documentation has it: an event is recorded when the stream gets to it, its time is not ready before that, a
capture runs nothing, and waiting in one is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from deploy.engines.cuda_torch import TorchCuda

COPY_MS = 0.25


class FakeStream:
    """A queue; `now_ms` is the clock of its GPU."""

    def __init__(self, handle: int) -> None:
        self.cuda_stream = handle
        self.queue: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.now_ms = 0.0

    def put(self, work: Callable[[], None]) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def launch(self, work: Callable[[], None], ms: float) -> None:
        """Enqueue a kernel that takes `ms`."""

        def run() -> None:
            work()
            self.now_ms += ms

        self.put(run)

    def synchronize(self) -> None:
        if self.captured is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")
        while self.queue:
            self.queue.pop(0)()


class FakeEvent:
    """The moment at which a stream got to it."""

    def __init__(self) -> None:
        self._stream: FakeStream | None = None
        self._at: float | None = None

    def record(self, stream: FakeStream) -> None:
        self._stream, self._at = stream, None

        def reached() -> None:
            self._at = stream.now_ms

        stream.put(reached)

    def synchronize(self) -> None:
        assert self._stream is not None
        self._stream.synchronize()

    def elapsed_time(self, end: FakeEvent) -> float:
        if self._at is None or end._at is None:
            raise RuntimeError("CUDA error: device not ready")
        return end._at - self._at


class FakeCuda(TorchCuda):
    """The interface of `Cuda` on such streams; fresh memory holds NaN."""

    def __init__(self) -> None:
        self.streams: dict[int, FakeStream] = {}
        self._current: FakeStream | None = None

    def stream(self) -> FakeStream:
        made = FakeStream(len(self.streams) + 1)
        self.streams[made.cuda_stream] = made
        return made

    @contextlib.contextmanager
    def on(self, stream: FakeStream) -> Iterator[None]:
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    def event(self) -> FakeEvent:
        return FakeEvent()

    def on_host(self, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, float("nan"))

    def on_device(self, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, float("nan"))

    def copy(self, target: Any, source: Any) -> None:
        assert self._current is not None, "a copy on the default stream"
        self._current.launch(lambda: target.copy_(source), COPY_MS)

    def capture(self, stream: FakeStream, enqueue: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        stream.captured = kept = []
        try:
            output = enqueue()
        finally:
            stream.captured = None

        def replay() -> None:
            assert self._current is not None, "a replay on the default stream"
            for work in kept:
                self._current.put(work)

        return output, replay


class Doubling:
    """A network of one kernel that doubles its input in `ms` of the GPU's time; `enqueued`: how often it was."""

    def __init__(self, cuda: FakeCuda, ms: float = 2.0, *, waits: bool = False) -> None:
        self._cuda, self._ms, self._waits = cuda, ms, waits
        self.enqueued = 0

    def __call__(self, source: Tensor, handle: int) -> Tensor:
        self.enqueued += 1
        stream, output = self._cuda.streams[handle], self._cuda.on_device(tuple(source.shape))
        stream.launch(lambda: output.copy_(source * 2), self._ms)
        if self._waits:
            stream.synchronize()
        return output
