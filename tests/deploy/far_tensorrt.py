"""The package `tensorrt_rtx` of another machine, as far as running goes and as NVIDIA's documentation has it.

It takes any engine for a network that repeats each pixel `FAKE_SCALE` times either way, and computes where the stream
gets to it, through the driver's library; it refuses what is higher than 512 pixels. `far_gpu` puts it in its place.
"""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace
from typing import Any

import numpy as np

_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_SCALE = int(os.environ.get("FAKE_SCALE", "2"))


class DynamicShapesKernelSpecializationStrategy:
    LAZY, EAGER = range(2)


class ILogger:
    """The base class of loggers."""


class IRuntimeCache:
    def __init__(self) -> None:
        self._kernels = b""

    def deserialize(self, content: bytes) -> bool:
        self._kernels = content
        return True

    def serialize(self) -> bytes:
        return self._kernels or b"kernels"


class Config:
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        return True


class Context:
    def __init__(self, config: Config) -> None:
        self._eager = config.dynamic_shapes_kernel_specialization_strategy
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._kept: list[Any] = []
        driver = ctypes.CDLL("libcuda.so.1")
        driver.cuLaunchHostFunc.argtypes = [ctypes.c_void_p, _FUNCTION, ctypes.c_void_p]
        self._launch = driver.cuLaunchHostFunc

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        self._shape = shape
        return shape[2] <= 512

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        n, c, h, w = self._shape
        return (n, c, h * _SCALE, w * _SCALE) if name == "y" else self._shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self._eager == DynamicShapesKernelSpecializationStrategy.EAGER

    def execute_async_v3(self, stream: int) -> bool:
        given, made = (_at(self._addresses[name], self.get_tensor_shape(name)) for name in "xy")

        def compute(_: int | None) -> None:
            made[...] = given.repeat(_SCALE, 2).repeat(_SCALE, 3)

        self._kept.append(_FUNCTION(compute))
        return self._launch(stream, self._kept[-1], None) == 0


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        return SimpleNamespace(
            get_tensor_name=lambda index: "xy"[index],
            create_runtime_config=Config,
            create_execution_context=Context,
        )


def _at(address: int, shape: tuple[int, ...]) -> np.ndarray:
    memory = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    return np.ctypeslib.as_array(memory).reshape(shape)
