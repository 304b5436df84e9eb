"""Runs by the driver's library alone, through a stand-in of it that refuses what the documentation says it refuses."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
import threading
from ctypes import byref, c_int, c_size_t, c_ulonglong, c_void_p
from pathlib import Path

import numpy as np
import pytest

from bitwright.foundation.errors import BitwrightError, DeviceError, UsageError
from deploy import gpu_match
from deploy.cuda_library import LIBRARY, CudaError, CudaLibrary, driver_gpu
from deploy.engines.cuda_driver import DeviceBuffer, DriverCuda
from deploy.engines.cuda_run import EAGER_RUNS, CudaRun
from tests.deploy.driver_helpers import CALL_MS, COPY_MS, Doubling, Machine, compile_driver
from tests.marks import GPU, needs_compiler, needs_gpu

pytestmark = needs_compiler
NOTHING = (0, 0, 0)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def machine(compiled: Path, tmp_path: Path) -> Machine:
    """One that has done nothing yet: another file is another library."""
    return Machine(Path(shutil.copy(compiled, tmp_path / "libcuda.so.1")))


@pytest.fixture
def cuda(machine: Machine) -> DriverCuda:
    return DriverCuda(CudaLibrary(str(machine.library)))


def pictures(count: int, *shape: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).random((count, *shape), dtype=np.float32))


@pytest.mark.parametrize("graph", [False, True])
def test_each_run_has_its_output_and_the_times_of_its_stages(graph: bool, machine: Machine, cuda: DriverCuda) -> None:
    network = Doubling(machine, cuda)
    run = CudaRun(network, graph=graph, cuda=cuda)
    outputs = []
    inputs = [*pictures(3, 1, 2, 4, 5), *pictures(2, 1, 2, 3, 5)]
    for x in inputs:
        outputs.append(run.run(x))
        assert run.stages_ms() == pytest.approx((COPY_MS, CALL_MS, COPY_MS))
    for x, output in zip(inputs, outputs, strict=True):
        np.testing.assert_array_equal(output, x * 2)
    assert network.enqueued == (2 * (EAGER_RUNS + 1) if graph else len(inputs))


@pytest.mark.parametrize("graph", [False, True])
def test_what_was_given_is_given_back(graph: bool, machine: Machine, cuda: DriverCuda) -> None:
    run = CudaRun(Doubling(machine, cuda), graph=graph, cuda=cuda)
    small, large = pictures(1, 1, 1, 2, 2)[0], pictures(1, 1, 1, 8, 8)[0]
    for x in (small, large, small, large):
        run.run(x)
    # A stream and four events, and a graph; each with an input and an output on either side.
    assert machine.held == (5 + graph, 2 * large.nbytes, 2)
    run.run(small)
    assert machine.held == (5 + graph, 2 * small.nbytes, 2)
    del run
    gc.collect()
    assert machine.held == NOTHING


def test_values_on_the_host_keep_their_buffer(machine: Machine, cuda: DriverCuda) -> None:
    values = cuda.on_host((2, 3)).numpy()
    values[...] = 7.0
    gc.collect()
    assert machine.held[2] == 1
    assert (values.shape, values.dtype, values.sum()) == ((2, 3), np.float32, 42.0)
    del values
    assert machine.held[2] == 0


def test_a_network_that_cannot_be_captured_is_told_and_leaves_nothing_behind(
    machine: Machine, cuda: DriverCuda
) -> None:
    x = pictures(1, 1, 1, 2, 2)[0]
    other = cuda.stream()
    with pytest.raises(UsageError) as caught:
        CudaRun(Doubling(machine, cuda, waits_for=other), graph=True, cuda=cuda).run(x)
    why = (
        "cuStreamSynchronize: operation not permitted when stream is capturing (CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)"
    )
    assert str(caught.value) == f"the network cannot be captured as a CUDA graph ({why}); run it without one"
    run = CudaRun(Doubling(machine, cuda), graph=True, cuda=cuda)
    np.testing.assert_array_equal(run.run(x), x * 2)
    del run, other, caught
    gc.collect()
    assert machine.held == NOTHING


def test_a_capture_that_was_spoiled_is_no_graph(cuda: DriverCuda) -> None:
    stream = cuda.stream()

    def takes_memory() -> None:
        with pytest.raises(CudaError, match="CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
            cuda.on_device((1,))

    with pytest.raises(CudaError, match="cuStreamEndCapture: operation failed due to a previous error during capture"):
        cuda.capture(stream, takes_memory)
    stream.synchronize()


def test_another_thread_has_the_context_as_well(machine: Machine, cuda: DriverCuda) -> None:
    x = pictures(1, 1, 1, 2, 2)[0]
    run = CudaRun(Doubling(machine, cuda), cuda=cuda)
    results, held = [run.run(x)], [run]

    def go_on() -> None:
        results.append(held[0].run(x))
        held.clear()
        gc.collect()

    del run
    thread = threading.Thread(target=go_on)
    thread.start()
    thread.join(30)
    np.testing.assert_array_equal(results[1], x * 2)
    assert machine.held == NOTHING


def test_times_are_not_told_before_the_gpu_got_there(cuda: DriverCuda) -> None:
    begin, end, stream = cuda.event(), cuda.event(), cuda.stream()
    with pytest.raises(CudaError, match=r"cuEventElapsedTime: CUDA_ERROR_INVALID_HANDLE \(CUDA_ERROR_INVALID_HANDLE\)"):
        begin.elapsed_time(end)
    begin.record(stream)
    end.record(stream)
    with pytest.raises(CudaError, match="device not ready") as caught:
        begin.elapsed_time(end)
    assert caught.value.code == 600
    stream.synchronize()
    assert begin.elapsed_time(end) == 0.0


@pytest.mark.parametrize(("megabytes", "what"), [(0, "a CUDA context"), (3, r"an input of \[1, 1, 1024, 1024\]")])
def test_a_gpu_without_memory_is_told_with_what_to_do(
    megabytes: int, what: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.zeros((1, 1, 1024, 1024), np.float32)
    library = CudaLibrary(str(machine.library))
    monkeypatch.setenv("FAKE_BYTES", str(megabytes << 20))

    def run() -> np.ndarray:
        cuda = DriverCuda(library)
        return CudaRun(Doubling(machine, cuda), cuda=cuda).run(x)

    with pytest.raises(DeviceError, match=f"no memory left for {what}; end what else uses it, or run smaller inputs"):
        run()
    gc.collect()
    assert machine.held == NOTHING
    monkeypatch.delenv("FAKE_BYTES")
    np.testing.assert_array_equal(run(), x)


def test_a_gpu_without_memory_for_a_graph_is_told_as_that(
    machine: Machine, cuda: DriverCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = pictures(1, 1, 1, 2, 2)[0]
    monkeypatch.setenv("FAKE_BYTES", str(2 * x.nbytes))
    with pytest.raises(DeviceError, match="no memory left for a CUDA graph of the network"):
        CudaRun(Doubling(machine, cuda), graph=True, cuda=cuda).run(x)
    gc.collect()
    assert machine.held == NOTHING


def one_line(error: pytest.ExceptionInfo[BitwrightError]) -> str:
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 5
    return str(error.value)


def test_a_machine_without_a_driver_or_a_gpu_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError) as caught:
        CudaLibrary("libcuda-that-is-nowhere.so.1")
    assert one_line(caught).startswith("NVIDIA's driver cannot be loaded (libcuda-that-is-nowhere.so.1: cannot open")
    with pytest.raises(DeviceError) as caught:
        CudaLibrary("libm.so.6")
    assert one_line(caught) == "NVIDIA's driver is too old: it has no cuInit; update it"
    monkeypatch.setenv("FAKE_GPUS", "0")
    with pytest.raises(DeviceError) as caught:
        CudaLibrary(str(machine.library))
    why = "cuInit: no CUDA-capable device is detected (CUDA_ERROR_NO_DEVICE)"
    assert one_line(caught) == f"NVIDIA's driver does not start: {why}; see what `nvidia-smi` says"


def test_an_error_that_the_driver_has_no_words_for_is_told_by_its_number(machine: Machine) -> None:
    library = CudaLibrary(str(machine.library))
    assert library._told("cuGetErrorString", 12345) == "CUresult 12345"
    with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_CONTEXT"):
        library.call("cuStreamCreate", byref(c_void_p()), 0)
    with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_DEVICE"):
        library.call("cuDeviceGet", byref(c_int()), 1)


@pytest.mark.parametrize(("told", "capability"), [("75", "7.5"), ("89", "8.9"), ("120", "12.0")])
def test_an_engine_for_another_gpu_is_told_which_one_is_here(
    told: str, capability: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CAPABILITY", told)
    assert CudaLibrary(str(machine.library)).compute_capability() == capability
    monkeypatch.setattr(gpu_match, "driver_gpu", lambda: CudaLibrary(str(machine.library)).compute_capability())
    assert gpu_match.why_not_by_driver(capability, "mine") is None
    other = gpu_match.why_not_by_driver("8.6", "rtx-3060")
    assert other is not None
    assert f"compute capability 8.6 (rtx-3060) and the GPU here has {capability}; for this one, compress with" in other


def test_without_a_gpu_the_reason_is_the_driver_s_own(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setenv("FAKE_GPUS", "0")
    monkeypatch.setattr(gpu_match, "driver_gpu", lambda: CudaLibrary(str(machine.library)).compute_capability())
    reason = gpu_match.why_not_by_driver("8.6", "rtx-3060")
    assert reason is not None
    assert "(rtx-3060) and there is no GPU here: NVIDIA's driver does not start: cuInit: no CUDA-capable" in reason


@needs_gpu
@pytest.mark.parametrize("graph", [False, True])
def test_a_real_driver_copies_on_a_gpu_and_tells_its_times(graph: bool) -> None:
    cuda, driver = DriverCuda(), ctypes.CDLL(LIBRARY)
    driver.cuMemcpyDtoDAsync_v2.argtypes = [c_ulonglong, c_ulonglong, c_size_t, c_void_p]
    output = cuda.on_device((1, 3, 256, 256))

    def copies(source: DeviceBuffer, stream: int) -> DeviceBuffer:
        assert driver.cuMemcpyDtoDAsync_v2(output.data_ptr(), source.data_ptr(), output.bytes, stream) == 0
        return output

    run = CudaRun(copies, graph=graph, cuda=cuda)
    for x in pictures(3, 1, 3, 256, 256):
        np.testing.assert_array_equal(run.run(x), x)
        assert min(run.stages_ms()) > 0.0
    assert f"sm_{driver_gpu().replace('.', '')}" == GPU


HEADER = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "include", "cuda.h")


@pytest.mark.skipif(not HEADER.is_file(), reason="there is no cuda.h: set CUDA_HOME to the folder of a CUDA toolkit")
def test_the_stand_in_has_the_signatures_of_nvidia_s_header() -> None:
    source = Path(__file__).with_name("fake_driver.cpp")
    words = ["g++", "-std=c++17", "-DCUDA_H", f"-I{HEADER.parent}", "-fsyntax-only", source]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
