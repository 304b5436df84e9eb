"""TorchCuda: streams, events, buffers and graphs of a run by torch, for the networks that torch compiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from deploy.engines.cuda_run import Cuda, no_memory


class TorchCuda(Cuda):
    """CUDA by torch."""

    failure = RuntimeError

    @contextmanager
    def enough_memory(self, what: str) -> Iterator[None]:
        """See `Cuda.enough_memory`."""
        import torch

        try:
            yield
        except torch.OutOfMemoryError as error:
            raise no_memory(what) from error

    def stream(self) -> Any:
        """See `Cuda.stream`."""
        import torch

        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """See `Cuda.on`."""
        import torch

        return torch.cuda.stream(stream)

    def event(self) -> Any:
        """See `Cuda.event`."""
        import torch

        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def on_host(self, shape: tuple[int, ...]) -> Any:
        """See `Cuda.on_host`."""
        import torch

        return torch.empty(shape, dtype=torch.float32, pin_memory=True)

    def on_device(self, shape: tuple[int, ...]) -> Any:
        """See `Cuda.on_device`."""
        import torch

        return torch.empty(shape, dtype=torch.float32, device="cuda")

    def copy(self, target: Any, source: Any) -> None:
        """See `Cuda.copy`."""
        target.copy_(source, non_blocking=True)

    def capture(self, stream: Any, enqueue: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """See `Cuda.capture`."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            output = enqueue()
        return output, graph.replay
