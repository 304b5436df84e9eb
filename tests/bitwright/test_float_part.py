"""Which precision the float part of a network is planned in, for every runtime that engines are built for; a point in
a 16-bit float agrees with torch in that float."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.report.tradeoff_curve import Kind
from bitwright.runs import stages
from bitwright.runs.curve_points import Proposal, build_point, load_quality, network
from bitwright.runs.float_part import float_precision, float_precisions, wider
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from deploy.engine import Runtime
from deploy.engines import load_engine
from deploy.verify import compare
from hw_profiles import load_profile
from tests.bitwright.job_helpers import tiny_request
from tests.marks import needs_compiler

GPUS = ("a100-sxm-80gb", "rtx-3060", "rtx-4090", "rtx-5090")


@pytest.mark.parametrize(
    ("device", "runtime", "known"),
    [
        *((gpu, runtime, ("fp16", "bf16", "fp32")) for gpu in GPUS for runtime in ("tensorrt-rtx", "tensorrt")),
        *((gpu, "torch", ("fp16", "bf16", "fp32")) for gpu in (*GPUS, "h100-sxm")),
        ("rtx-2080-ti", "torch", ("fp16", "fp32")),
        ("jetson-orin-nano-8gb", "tensorrt", ("fp16", "fp32")),
        ("x86-avx512-vnni-bf16", "torch", ("bf16", "fp32")),
        ("x86-avx512-vnni-bf16", "openvino", ("bf16", "fp32")),
        ("x86-avx512-vnni-bf16", "onnxruntime", ("fp32",)),
        ("x86-avx512-vnni-bf16", "litert", ("fp32",)),
        ("x86-avx2", "openvino", ("fp32",)),
        ("fpga-dataflow", "qonnx", ("fp32",)),
    ],
)
def test_the_first_that_runtime_and_device_have(device: str, runtime: str, known: tuple[str, ...]) -> None:
    profile = load_profile(device)
    assert float_precisions(profile, Runtime(runtime)) == known
    assert float_precision(profile, Runtime(runtime)) == known[0]
    for index, planned in enumerate(known):
        assert wider(profile, Runtime(runtime), planned) == known[index + 1 :]


@pytest.mark.engine
@needs_compiler
@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx512_bf16"), reason="does not multiply in bf16")
def test_a_float_point_of_a_curve_is_held_against_torch_in_its_own_float(data: Path, tmp_path: Path) -> None:
    checkpoint, tolerance = data / "checkpoints" / "espcn_x2.pth", 0.03
    request = tiny_request(data, tmp_path, checkpoint=checkpoint, runtime="torch", tolerance=tolerance)
    with RunFolder.open(request) as run:
        job = Job.open(request, run)
        stages.float_baseline(job)
        floats = job.first_plan().with_float(set(job.first_plan().layers), "a float point")
        assert floats.float_precision == "bf16"
        point = Proposal(name="float-bf16", kind=Kind.FLOAT, label="bf16", plan=floats, source=None)
        build_point(job, point)
        engine = load_engine(run.path / point.engine, 1)
        exact = compare(
            network(job, point).simulate(), engine, job.eval_samples[:4], job.loaded.workload, request.tolerance
        )
        assert abs(load_quality(job, point).verify.gap) < tolerance < abs(exact.gap)
