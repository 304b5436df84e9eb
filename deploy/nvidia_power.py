"""What NVIDIA's management library (NVML) tells of the power of GPUs. Needs `nvidia-ml-py` and the driver's library."""

from __future__ import annotations

from collections.abc import Callable, Iterator

_MILLI = 1e-3


def gpu_readers() -> Iterator[tuple[str, Callable[[], float], bool]]:
    """For each GPU and each way to read it: its name, what reads it, and whether that counts joules, else tells watts.

    The counter comes first; GPUs before Volta have none and raise OSError. Nothing where the package or the driver's
    library is not there.
    """
    try:
        import pynvml
    except ImportError:
        return
    try:
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return
    for number, gpu in enumerate(gpus):
        name = f"gpu{number} {_name(pynvml.nvmlDeviceGetName(gpu))}"
        yield name, _reader(pynvml.nvmlDeviceGetTotalEnergyConsumption, gpu, pynvml.NVMLError), True
        yield name, _reader(pynvml.nvmlDeviceGetPowerUsage, gpu, pynvml.NVMLError), False


def _name(given: str | bytes) -> str:
    return given.decode() if isinstance(given, bytes) else given


def _reader(ask: Callable[[object], int], gpu: object, failure: type[Exception]) -> Callable[[], float]:
    """Joules or watts of a GPU; OSError where it does not answer, as for a file of a sensor."""

    def read() -> float:
        try:
            return ask(gpu) * _MILLI
        except failure as error:
            raise OSError(f"the GPU does not tell its power: {error}") from error

    return read
