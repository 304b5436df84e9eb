"""Which precision the float part of a network is planned in, for every runtime that engines are built for."""

from __future__ import annotations

import pytest

from bitwright.runs.float_part import float_precision, float_precisions, wider
from deploy.engine import Runtime
from hw_profiles import load_profile

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
