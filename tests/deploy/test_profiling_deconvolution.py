from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compress.plan import LayerPlan, Placement
from deploy.engine import FloatPrecision
from deploy.profiling import Subject, profile_engine, profiling_plans
from deploy.profiling.subject import build


def test_a_call_that_the_runtime_names_anew_in_each_replica_keeps_its_time(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(24, 3, 9, 4, padding=4, output_padding=3)
    ).eval()
    subject = Subject.of("deconvolution", "deconvolution", module, torch.rand(1, 3, 32, 32))
    plan = profiling_plans(
        subject.layers,
        architecture="any",
        device="any",
        runtime="openvino",
        integer=dict.fromkeys(subject.layers, LayerPlan()),
        floats=(FloatPrecision.BF16,),
        placement=Placement.INPUTS,
    )["bf16"]
    subject.export(plan, tmp_path / "n.onnx")
    build(tmp_path / "n.onnx", tmp_path / "e", plan, (1, 3, 32, 32))
    times = profile_engine(tmp_path / "e", (1, 3, 32, 32), seconds=0.2)
    assert [kernel.op for kernel in times.kernels].count("Deconvolution") == 1
    assert all(len(blocks) == len(times.blocks_ms[0]) for blocks in times.blocks_ms)
