"""What NVIDIA's management library (NVML) tells of the power of GPUs. Needs `nvidia-ml-py` and the driver's library."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from deploy.nvidia_gpus import devices, name_of

_MILLI = 1e-3


def gpu_readers() -> Iterator[tuple[str, Callable[[], float], bool]]:
    """For each GPU and each way to read it: its name, what reads it, and whether that counts joules, else tells watts.

    The counter comes first; GPUs before Volta have none and raise OSError. Nothing where the package or the driver's
    library is not there.
    """
    nvml, gpus = devices()
    for number, gpu in enumerate(gpus):
        name = f"gpu{number} {name_of(nvml, gpu)}"
        yield name, _reader(nvml.nvmlDeviceGetTotalEnergyConsumption, gpu, nvml.NVMLError), True
        yield name, _reader(nvml.nvmlDeviceGetPowerUsage, gpu, nvml.NVMLError), False


def _reader(ask: Callable[[object], int], gpu: object, failure: type[Exception]) -> Callable[[], float]:
    """Joules or watts of a GPU; OSError where it does not answer, as for a file of a sensor."""

    def read() -> float:
        try:
            return ask(gpu) * _MILLI
        except failure as error:
            raise OSError(f"the GPU does not tell its power: {error}") from error

    return read
