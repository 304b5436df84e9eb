"""Runs on a GPU: copies and computation timed apart, captured graphs; without one on streams that keep its rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.foundation.errors import DeviceError, UsageError
from deploy.engines.cuda_run import EAGER_RUNS, CudaRun
from deploy.engines.cuda_torch import TorchCuda
from tests.deploy.fake_cuda import COPY_MS, Doubling, FakeCuda
from tests.marks import needs_gpu


def pictures(count: int, *shape: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).random((count, *shape), dtype=np.float32))


@pytest.mark.parametrize("graph", [False, True])
def test_each_stage_has_its_own_time_and_each_run_its_own_output(graph: bool) -> None:
    cuda = FakeCuda()
    network = Doubling(cuda, ms=3.0)
    run = CudaRun(network, graph=graph, cuda=cuda)
    inputs = pictures(3, 1, 2, 4, 5)
    outputs = []
    for x in inputs:
        outputs.append(run.run(x))
        assert run.stages_ms() == pytest.approx((COPY_MS, 3.0, COPY_MS))
    for x, output in zip(inputs, outputs, strict=True):
        np.testing.assert_array_equal(output, x * 2)


def test_a_graph_is_captured_once_for_each_shape_and_then_replayed() -> None:
    cuda = FakeCuda()
    network = Doubling(cuda)
    run = CudaRun(network, graph=True, cuda=cuda)
    small, large = pictures(2, 1, 1, 2, 2), pictures(1, 1, 1, 3, 2)
    for x in small:
        np.testing.assert_array_equal(run.run(x), x * 2)
    assert network.enqueued == EAGER_RUNS + 1
    np.testing.assert_array_equal(run.run(large[0]), large[0] * 2)
    np.testing.assert_array_equal(run.run(small[0]), small[0] * 2)
    assert network.enqueued == 3 * (EAGER_RUNS + 1)


def test_a_network_that_cannot_be_captured_is_told_in_one_line() -> None:
    cuda = FakeCuda()
    x = pictures(1, 1, 1, 2, 2)[0]
    with pytest.raises(UsageError, match=r"cannot be captured .*not permitted when stream is capturing\); run it with"):
        CudaRun(Doubling(cuda, waits=True), graph=True, cuda=cuda).run(x)
    asked: list[int] = []

    def never(handle: int) -> bool:
        asked.append(handle)
        return False

    network = Doubling(cuda)
    with pytest.raises(UsageError, match="it is not capturable for this shape") as caught:
        CudaRun(network, graph=True, capturable=never, cuda=cuda).run(x)
    assert "\n" not in str(caught.value)
    assert (network.enqueued, asked) == (EAGER_RUNS, [2])
    np.testing.assert_array_equal(CudaRun(network, capturable=never, cuda=cuda).run(x), x * 2)


def test_a_shape_that_was_refused_is_refused_again() -> None:
    cuda, answers = FakeCuda(), [True, False, False, True]
    run = CudaRun(Doubling(cuda), graph=True, capturable=lambda handle: answers.pop(0), cuda=cuda)
    good, refused = pictures(1, 1, 1, 2, 2)[0], pictures(1, 1, 1, 3, 2)[0]
    run.run(good)
    for _ in range(2):
        with pytest.raises(UsageError, match="it is not capturable for this shape"):
            run.run(refused)
    np.testing.assert_array_equal(run.run(good), good * 2)
    assert answers == []


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("buffers", [0, 1, 2])
def test_a_gpu_without_memory_is_told_with_what_to_do(graph: bool, buffers: int) -> None:
    class Full(FakeCuda):
        """Has memory for so many buffers."""

        left = buffers

        def on_device(self, shape: tuple[int, ...]) -> torch.Tensor:
            self.left -= 1
            if self.left < 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")
            return super().on_device(shape)

    cuda, x = Full(), pictures(1, 1, 1, 2, 2)[0]
    run = CudaRun(Doubling(cuda), graph=graph, cuda=cuda)
    if buffers == 2 and not graph:
        run.run(x)
    else:
        with pytest.raises(DeviceError, match=r"no memory left for an input of \[1, 1, 2, 2\]; end what else uses it"):
            run.run(x)
    cuda.left = 100
    np.testing.assert_array_equal(run.run(x), x * 2)


def test_a_gpu_without_memory_for_a_graph_is_no_network_that_cannot_be_captured() -> None:
    class Full(FakeCuda):
        def capture(self, stream: Any, enqueue: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    cuda = Full()
    with pytest.raises(DeviceError, match="no memory left for a CUDA graph of the network"):
        CudaRun(Doubling(cuda), graph=True, cuda=cuda).run(pictures(1, 1, 1, 2, 2)[0])


@needs_gpu
@pytest.mark.parametrize("graph", [False, True])
def test_a_real_network_on_a_gpu_gives_its_outputs_and_times(graph: bool) -> None:
    network = nn.Conv2d(3, 8, 3, padding=1).cuda().eval()

    def compute(source: Any, handle: int) -> Any:
        assert torch.cuda.current_stream().cuda_stream == handle != 0
        with torch.no_grad():
            return network(source)

    run = CudaRun(compute, graph=graph, cuda=TorchCuda())
    for shape in ((2, 3, 32, 40), (1, 3, 64, 64)):
        for x in pictures(3, *shape):
            output = run.run(x)
            with torch.no_grad():
                expected = network(torch.from_numpy(x).cuda()).cpu().numpy()
            np.testing.assert_allclose(output, expected, atol=1e-3)
            assert min(run.stages_ms()) > 0.0
