"""Running TensorRT engines, on a module that answers as the documentation of `tensorrt` and `tensorrt_rtx` says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitwright.foundation.errors import DeviceError, UsageError
from deploy.engines.tensorrt_session import TensorRtSession
from tests.deploy.fake_cuda import FakeCuda


class Context:
    """An execution context of a network that doubles pictures of at most 8 pixels' height."""

    def __init__(self, cuda: FakeCuda, buffers: dict[int, Tensor]) -> None:
        self._cuda, self._buffers = cuda, buffers
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self.works = True
        self.compiled = lambda: None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        self._shape = shape
        return shape[2] <= 8

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "y"
        return self._shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, handle: int) -> bool:
        self.compiled()
        source, target = (self._buffers[self._addresses[name]] for name in "xy")
        self._cuda.streams[handle].launch(lambda: target.copy_(source * 2), 1.0)
        return self.works


class Buffers(FakeCuda):
    """Remembers buffers by their address, as a GPU does."""

    def __init__(self) -> None:
        super().__init__()
        self.by_address: dict[int, Tensor] = {}

    def on_device(self, shape: tuple[int, ...]) -> Tensor:
        made = super().on_device(shape)
        self.by_address[made.data_ptr()] = made
        return made


class Cache:
    """A runtime cache: takes only what its own version wrote, and holds the kernels that were compiled by now."""

    def __init__(self) -> None:
        self.content = b"v1:"

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"v1:"):
            return False
        self.content = blob
        return True

    def add(self, kernel: bytes) -> None:
        if kernel not in self.content:
            self.content += kernel

    def serialize(self) -> bytes:
        return self.content


class Module(SimpleNamespace):
    """`tensorrt_rtx` with `rtx`, else `tensorrt`, which has no runtime cache."""

    def __init__(self, cuda: Buffers, *, rtx: bool) -> None:
        super().__init__(__name__="tensorrt_rtx" if rtx else "tensorrt", __version__="1.7")
        self.context = Context(cuda, cuda.by_address)
        self.caches: list[Cache] = []
        self.configs: list[Any] = []
        self.has_memory = True
        self.refusal = "IRuntime::deserializeCudaEngine: Error Code 1: Serialization\nmore lines"

        class ILogger:
            """The base class of loggers."""

        self.ILogger = ILogger
        self.Runtime = self._runtime
        if rtx:
            self.IRuntimeCache = Cache
            self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager", LAZY="lazy")
            self.context.is_stream_capturable = lambda handle: self.configs[-1].specialises == "eager"
            self.context.compiled = self._compiled

    def _runtime(self, logger: Any) -> Any:
        assert isinstance(logger, self.ILogger)
        self.log = logger
        return SimpleNamespace(deserialize_cuda_engine=self._engine)

    def tell(self, severity: str, text: str) -> None:
        self.log.log(SimpleNamespace(name=severity), text)

    def _compiled(self) -> None:
        """A run: LAZY compiles the kernel for its shape in the background, which takes longer than these tests."""
        if self.configs[-1].specialises == "eager":
            self.caches[-1].add(b"kernel")

    def _engine(self, content: bytes) -> Any:
        if content != b"engine":
            self.tell("WARNING", "a word of warning")
            self.tell("ERROR", self.refusal)
            return None
        return SimpleNamespace(
            get_tensor_name=lambda index: "xy"[index],
            create_runtime_config=self._config,
            create_execution_context=lambda config=None: self.context if self.has_memory else None,
        )

    def _config(self) -> Any:
        module = self

        class Config:
            specialises = "lazy"
            dynamic_shapes_kernel_specialization_strategy = property(
                lambda self: self.specialises, lambda self, value: setattr(self, "specialises", value)
            )

            def create_runtime_cache(self) -> Cache:
                module.caches.append(Cache())
                return module.caches[-1]

            def set_runtime_cache(self, cache: Cache) -> bool:
                return cache is module.caches[-1]

        self.configs.append(Config())
        return self.configs[-1]


X = np.random.default_rng(0).random((1, 3, 4, 6), dtype=np.float32)


@pytest.mark.parametrize("rtx", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_an_engine_runs_and_its_stages_are_timed(rtx: bool, graph: bool, tmp_path: Path) -> None:
    cuda = Buffers()
    session = TensorRtSession(Module(cuda, rtx=rtx), b"engine", cache=tmp_path / "c", cuda_graph=graph, cuda=cuda)
    for x in (X, X + 1, X[:, :, :2]):
        np.testing.assert_array_equal(session.run(x), x * 2)
        assert session.stages_ms()[1] == pytest.approx(1.0)
    assert (tmp_path / "c").exists() is rtx


def test_what_an_engine_refuses_is_told(tmp_path: Path) -> None:
    cuda = Buffers()
    module = Module(cuda, rtx=True)
    session = TensorRtSession(module, b"engine", cache=tmp_path / "c", cuda=cuda)
    with pytest.raises(UsageError, match=r"refuses float32 \[1, 3, 9, 6\]; give another size"):
        session.run(np.zeros((1, 3, 9, 6), np.float32))
    module.context.works = False
    with pytest.raises(DeviceError, match=r"failed while running \[1, 3, 4, 6\]: it gave no reason"):
        session.run(X)
    module.tell("INTERNAL_ERROR", "no kernel image")
    with pytest.raises(DeviceError, match=r"failed while running \[1, 3, 4, 6\]: no kernel image$"):
        session.run(X)
    why = r"\(IRuntime::deserializeCudaEngine: Error Code 1: Serialization\); update the driver of the GPU if"
    with pytest.raises(UsageError, match=rf"tensorrt_rtx 1\.7 does not load the engine {why}"):
        TensorRtSession(module, b"of another version", cache=tmp_path / "c", cuda=cuda)


def test_kernels_that_were_compiled_once_are_kept_for_the_next_process(tmp_path: Path) -> None:
    cache, cuda = tmp_path / "folder" / "c", Buffers()
    module = Module(cuda, rtx=True)
    for _ in range(2):
        TensorRtSession(module, b"engine", cache=cache, cuda=cuda).run(X)
        assert cache.read_bytes() == b"v1:kernel"
    assert module.caches[1].content == b"v1:kernel"
    cache.write_bytes(b"v0:of another driver")
    TensorRtSession(module, b"engine", cache=cache, cuda=cuda).run(X)
    assert cache.read_bytes() == b"v1:kernel"


@pytest.mark.parametrize("rtx", [False, True])
def test_a_gpu_without_memory_for_an_engine_is_told(rtx: bool, tmp_path: Path) -> None:
    cuda = Buffers()
    module = Module(cuda, rtx=rtx)
    module.has_memory = False
    with pytest.raises(DeviceError, match="the GPU has no memory left for the engine; end what else uses it"):
        TensorRtSession(module, b"engine", cache=tmp_path / "c", cuda=cuda)


def test_what_tensorrt_says_of_memory_is_told_as_such(tmp_path: Path) -> None:
    cuda = Buffers()
    module = Module(cuda, rtx=False)
    session = TensorRtSession(module, b"engine", cache=tmp_path / "c", cuda=cuda)
    module.context.works = False
    module.tell("ERROR", "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (out of memory)")
    with pytest.raises(DeviceError, match=r"no memory left for an input of \[1, 3, 4, 6\]"):
        session.run(X)
    module.refusal = "[executionContext.cpp] Error Code 2: OutOfMemory (Requested size was 9 bytes.)"
    with pytest.raises(DeviceError, match="no memory left for the engine"):
        TensorRtSession(module, b"too large", cache=tmp_path / "c", cuda=cuda)


def test_without_a_folder_for_caches_it_runs_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cuda = Buffers()
    session = TensorRtSession(Module(cuda, rtx=True), b"engine", cache=tmp_path / "file" / "c", cuda=cuda)
    assert torch.equal(torch.from_numpy(session.run(X)), torch.from_numpy(X * 2))
