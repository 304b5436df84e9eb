"""What NVIDIA's management library (NVML) tells of GPUs: what they are, and how fast and warm they run now.

Needs `nvidia-ml-py` and the driver's library; without them there are no GPUs. Values are read, and none is ever set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_REASONS = {
    0x1: "idle", 0x2: "application clocks", 0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "thermal slowdown by software", 0x40: "thermal slowdown by hardware", 0x80: "power brake",
    0x100: "display clocks", 0x200: "board limit", 0x400: "reliability",
}  # fmt: skip
"""Why clocks are what they are: the bits of `nvmlClocksThrottleReason*` in words."""

HOLDING_BACK = frozenset(_REASONS.values()) - {"idle", "application clocks", "sync boost", "display clocks"}
"""The reasons that hold a GPU below the clocks that it was set to."""


def devices() -> tuple[Any, list[Any]]:
    """NVML and the handle of each GPU; (None, []) where the package or the driver's library is not there."""
    nvml, gpus, _ = _asked()
    return nvml, gpus


def why_silent() -> str | None:
    """Why NVML tells of no GPU here, and what to do, in words; None where it does."""
    return _asked()[2]


def _asked() -> tuple[Any, list[Any], str | None]:
    try:
        import pynvml
    except ImportError:
        return None, [], "NVML's package is not installed; install it with: pip install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return None, [], f"NVML does not answer ({error}); see what `nvidia-smi` says"
    return pynvml, gpus, None if gpus else "NVML finds no GPU; see what `nvidia-smi` says"


def name_of(nvml: Any, gpu: Any) -> str:
    """The name of a GPU; older packages give bytes."""
    return _text(nvml.nvmlDeviceGetName(gpu)) or "unknown"


def read_gpus() -> list[dict[str, Any]]:
    """The fields of `Gpu` for each GPU of this machine; what it does not tell is None."""
    nvml, gpus = devices()
    return [
        {
            "name": _told(nvml, name_of, nvml, gpu) or "unknown",
            "driver": _text(_told(nvml, nvml.nvmlSystemGetDriverVersion)),
            "compute_capability": _capability(nvml, gpu),
            "max_clock_mhz": _told(nvml, nvml.nvmlDeviceGetMaxClockInfo, gpu, nvml.NVML_CLOCK_SM),
            "power_limit_w": _watts(_told(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, gpu)),
        }
        for gpu in gpus
    ]


def read_gpu_heat() -> list[dict[str, Any]]:
    """The fields of `GpuHeat` for each GPU of this machine, now; what it does not tell is None."""
    nvml, gpus = devices()
    return [
        {
            "clock_mhz": _told(nvml, nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": _told(nvml, nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_MEM),
            "temperature_c": _told(nvml, nvml.nvmlDeviceGetTemperature, gpu, nvml.NVML_TEMPERATURE_GPU),
            "throttle_reasons": _reasons(_told(nvml, nvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu)),
            "power_violation_ns": _violation_ns(nvml, gpu, nvml.NVML_PERF_POLICY_POWER),
            "thermal_violation_ns": _violation_ns(nvml, gpu, nvml.NVML_PERF_POLICY_THERMAL),
        }
        for gpu in gpus
    ]


def _told(nvml: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """An answer; None where the GPU or its driver does not know the question."""
    try:
        return ask(*arguments)
    except nvml.NVMLError:
        return None


def _violation_ns(nvml: Any, gpu: Any, policy: int) -> int | None:
    """How long a policy has held a GPU below its clocks, in ns (`nvmlViolationTime_t`)."""
    told = _told(nvml, nvml.nvmlDeviceGetViolationStatus, gpu, policy)
    return None if told is None else int(told.violationTime)


def _text(given: str | bytes | None) -> str | None:
    return given.decode() if isinstance(given, bytes) else given


def _capability(nvml: Any, gpu: Any) -> str | None:
    told = _told(nvml, nvml.nvmlDeviceGetCudaComputeCapability, gpu)
    return None if told is None else f"{told[0]}.{told[1]}"


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000.0


def _reasons(bits: int | None) -> list[str] | None:
    return None if bits is None else [name for bit, name in _REASONS.items() if bits & bit]
