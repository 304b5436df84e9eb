"""What NVIDIA's management library (NVML) tells of the power of GPUs. Needs `nvidia-ml-py` and the driver's library."""

from __future__ import annotations

from collections.abc import Callable, Iterator

_MILLI = 1e-3


def gpu_readers() -> Iterator[tuple[str, Callable[[], float], bool]]:
    """For each GPU its name, what reads it, and whether that counts joules since the driver was loaded, else watts.

    Nothing where the package or the driver's library is not there. GPUs before Volta count no energy and tell power.
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
        for ask, counts in (
            (pynvml.nvmlDeviceGetTotalEnergyConsumption, True),
            (pynvml.nvmlDeviceGetPowerUsage, False),
        ):
            read = _reader(ask, gpu, pynvml.NVMLError)
            try:
                read()
            except OSError:
                continue
            yield name, read, counts
            break


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
