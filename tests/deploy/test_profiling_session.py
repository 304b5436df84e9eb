from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compress.plan import LayerPlan, Placement
from compress.quantizers import A8, W8
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import load_engine
from deploy.engines.runtime_packages import runtime_version
from deploy.kernels import executed_kernels
from deploy.profiling import Circumstances, Session, Subject, grid_names, grid_subject, profiling_plans
from deploy.profiling.subject import build
from hw_profiles.latency_table import LatencyTable

SHAPE = (1, 3, 24, 32)
INTEGER = LayerPlan(weight=W8, activation=A8)


def test_plans_bring_out_every_precision_and_the_boundaries() -> None:
    layers = ("a", "b", "c", "d", "e")
    able = dict.fromkeys(("a", "b", "c", "d"), INTEGER)
    plans = profiling_plans(
        layers,
        architecture="any",
        device="any",
        runtime="openvino",
        integer=able,
        floats=(FloatPrecision.BF16, FloatPrecision.FP32),
        placement=Placement.INPUTS,
        mixed=(0, 1, 2),
    )
    assert list(plans) == ["bf16", "fp32", "int8", "int8-fp32", "alternating", "mixed-0", "mixed-1", "mixed-2"]
    assert plans["fp32"].quantized_layers == plans["bf16"].quantized_layers == ()
    assert plans["int8"].quantized_layers == ("a", "b", "c", "d")
    assert (plans["int8"].float_precision, plans["int8-fp32"].float_precision) == ("bf16", "fp32")
    assert plans["alternating"].quantized_layers == ("a", "c")
    assert all("e" not in plan.quantized_layers for plan in plans.values())


def test_the_grid_covers_windows_groups_and_what_surrounds_convolutions(tmp_path: Path) -> None:
    assert len(grid_names()) == 49
    subject = grid_subject("grid-c8")
    plan = profiling_plans(
        subject.layers,
        architecture="any",
        device="any",
        runtime="openvino",
        integer=dict.fromkeys(subject.layers, INTEGER),
        floats=(FloatPrecision.BF16,),
        placement=Placement.INPUTS,
    )["int8"]
    file = tmp_path / "n.onnx"
    subject.export(plan, file)
    build(file, tmp_path / "e", plan, (1, 3, 32, 32))
    kernels = executed_kernels(load_engine(tmp_path / "e", 1), (1, 3, 32, 32))
    layers = [kernel for kernel in kernels if kernel.layers]
    assert {kernel.window for kernel in layers} >= {(1, 1), (3, 3), (5, 5)}
    assert {kernel.groups for kernel in layers} == {1, 8}
    assert {kernel.stride for kernel in layers} == {(1, 1), (2, 2)}
    fused = {op for kernel in layers for op in kernel.fused}
    # The limits of the integers that a convolution writes are its ReLU.
    assert fused >= {"QuantizeLinear", "LeakyRelu"}
    others = {kernel.op for kernel in kernels if not kernel.layers}
    assert others >= {"DepthToSpace", "Interpolate", "Pooling", "Reorder"}


def test_a_session_measures_what_the_table_lacks_and_no_more(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.PixelShuffle(2)).eval()
    subject = Subject.of("tiny", "tiny", module, torch.rand(1, 3, 24, 32))
    plans = profiling_plans(
        subject.layers,
        architecture="tiny",
        device="cpu",
        runtime="openvino",
        integer={},
        floats=(FloatPrecision.BF16, FloatPrecision.FP32),
        placement=Placement.INPUTS,
    )
    where = Circumstances("cpu", "openvino", runtime_version(Runtime.OPENVINO), 1, "here")
    path = tmp_path / "table.jsonl"
    rows = list(Session(LatencyTable(), path, where, seconds=0.1).profile(subject, plans, [SHAPE]))
    assert [(row.network, row.plan, row.input_shape) for row in rows] == [("tiny", p, SHAPE) for p in ("bf16", "fp32")]
    assert all(sum(k.macs for k in row.kernels) == 24 * 32 * (3 * 8 * 9 + 8 * 12) for row in rows)

    written = path.read_bytes()
    again = LatencyTable.load(path)
    assert again.networks == tuple(rows)
    assert {row.kernel.key for row in again.kernels} == {k.key for row in rows for k in row.kernels}
    assert list(Session(again, path, where, seconds=0.1).profile(subject, plans, [SHAPE])) == []
    assert path.read_bytes() == written

    # A kill before a network's own line leaves its kernels, and the network to be measured again.
    path.write_bytes(b"".join(written.splitlines(keepends=True)[:-1]))
    missing = list(Session(LatencyTable.load(path), path, where, seconds=0.1).profile(subject, plans, [SHAPE]))
    assert [row.plan for row in missing] == ["fp32"]
    # Their last rows are marked as noisy, so that they are measured again on request only.
    table = LatencyTable.load(path)
    for row in table.networks:
        table.add(row.model_copy(update={"noisy": True}))
    assert Session(table, path, where).measured_at("tiny", "fp32", (24, 32))
    assert not Session(table, path, where, redo_noisy=True).measured_at("tiny", "fp32", (24, 32))
    elsewhere = Circumstances("cpu", "openvino", where.runtime_version, 1, "there")
    assert not Session(LatencyTable.load(path), path, elsewhere).measured_at("tiny", "fp32", (24, 32))
