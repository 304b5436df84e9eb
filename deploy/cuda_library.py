"""CudaLibrary: the library of NVIDIA's driver, libcuda.so.1, called with the argument types of its documentation.

Needs nothing but Python. It has been called through a stand-in alone: no GPU has met it yet.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

from bitwright.foundation.errors import DeviceError

LIBRARY = "libcuda.so.1"
OUT_OF_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY."""

_NO_DEVICE = 100
_MAJOR, _MINOR = 75, 76
_HANDLE, _NEW = c_void_p, POINTER(c_void_p)
_ON_DEVICE = c_ulonglong
"""CUdeviceptr of 64-bit systems."""

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (_NEW, c_int),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuStreamCreate": (_NEW, c_uint),
    "cuStreamSynchronize": (_HANDLE,),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuEventCreate": (_NEW, c_uint),
    "cuEventRecord": (_HANDLE, _HANDLE),
    "cuEventSynchronize": (_HANDLE,),
    "cuEventElapsedTime": (POINTER(c_float), _HANDLE, _HANDLE),
    "cuEventDestroy_v2": (_HANDLE,),
    "cuMemAlloc_v2": (POINTER(_ON_DEVICE), c_size_t),
    "cuMemFree_v2": (_ON_DEVICE,),
    "cuMemAllocHost_v2": (_NEW, c_size_t),
    "cuMemFreeHost": (_HANDLE,),
    "cuMemcpyHtoDAsync_v2": (_ON_DEVICE, c_void_p, c_size_t, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (c_void_p, _ON_DEVICE, c_size_t, _HANDLE),
    "cuStreamBeginCapture_v2": (_HANDLE, c_int),
    "cuStreamEndCapture": (_HANDLE, _NEW),
    "cuGraphInstantiateWithFlags": (_NEW, _HANDLE, c_ulonglong),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGraphDestroy": (_HANDLE,),
}
"""CUDA Driver API 13.0; the names carry the versions of their interfaces, as `cuda.h` gives them. All since 11.4."""


class CudaError(DeviceError):
    """A call that the driver refused. `code`: its CUresult."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class CudaLibrary:
    """The driver, started. DeviceError where there is none, it is too old, or it finds no GPU."""

    def __init__(self, name: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise DeviceError(
                f"NVIDIA's driver cannot be loaded ({error}); install it, or go to a machine that has it"
            ) from error
        for function, arguments in _SIGNATURES.items():
            try:
                entry = getattr(self._library, function)
            except AttributeError as error:
                raise DeviceError(f"NVIDIA's driver is too old: it has no {function}; update it") from error
            entry.argtypes, entry.restype = arguments, c_int
        try:
            self.call("cuInit", 0)
        except CudaError as error:
            raise CudaError(
                f"NVIDIA's driver does not start: {error}; see what `nvidia-smi` says", error.code
            ) from error

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function; CudaError, with the driver's own words, where it does not return CUDA_SUCCESS."""
        code = self.call_quietly(function, *arguments)
        if code:
            raise CudaError(f"{function}: {self._told('cuGetErrorString', code)} "
                            f"({self._told('cuGetErrorName', code)})", code)  # fmt: skip

    def call_quietly(self, function: str, *arguments: Any) -> int:
        """Call a function and return its code, for what is given back: there is nobody left to tell."""
        code: int = getattr(self._library, function)(*arguments)
        return code

    def device(self) -> int:
        """The first GPU, which `CUDA_VISIBLE_DEVICES` may choose; CudaError where there is none."""
        count, found = c_int(), c_int()
        self.call("cuDeviceGetCount", byref(count))
        if count.value < 1:
            raise CudaError("NVIDIA's driver finds no GPU", _NO_DEVICE)
        self.call("cuDeviceGet", byref(found), 0)
        return found.value

    def compute_capability(self) -> str:
        """Of the first GPU, such as 8.9; CudaError where there is none."""
        device, parts = self.device(), []
        for attribute in (_MAJOR, _MINOR):
            value = c_int()
            self.call("cuDeviceGetAttribute", byref(value), attribute, device)
            parts.append(str(value.value))
        return ".".join(parts)

    def _told(self, function: str, code: int) -> str:
        text = c_char_p()
        self.call_quietly(function, code, byref(text))
        return f"CUresult {code}" if text.value is None else text.value.decode(errors="replace")


def driver_gpu() -> str:
    """Compute capability of the first GPU of this machine's driver; DeviceError where there is none."""
    return CudaLibrary().compute_capability()
