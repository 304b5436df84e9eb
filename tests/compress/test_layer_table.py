"""LayerTable against hand counts and published sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import GraphError, UsageError
from compress.graph import capture
from compress.layer_table import LayerTable
from compress.plan import LayerPlan, Placement, Plan, Sparsity
from compress.quantizers import A8, W8
from hw_profiles import Op
from workloads.loading import load_checkpoint


def table(data: Path, file: str, height: int, width: int, scale: int | None = None) -> LayerTable:
    model = load_checkpoint(data / "checkpoints" / file, scale=scale)
    graph = capture(model.module, model.workload.example_input(32, 30))
    return LayerTable.from_graph(graph, torch.empty(1, 3, height, width, device="meta"))


def plan_for(layers: dict[str, LayerPlan], float_precision: str = "fp32") -> Plan:
    return Plan(architecture="a", device="d", runtime="r", float_precision=float_precision,
                placement=Placement.INPUTS, layers=layers)  # fmt: skip


class Mixed(nn.Module):
    """A strided grouped convolution, a transposed one, one weight called twice, a PReLU, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(4, 8, (3, 5), stride=(2, 1), padding=(1, 2), groups=2, bias=False)
        self.twice = nn.Conv2d(8, 8, 1)
        self.slope = nn.PReLU(8)
        self.up = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.twice(self.twice(self.down(x))))
        return self.head(self.up(x).mean((2, 3)))


@pytest.fixture(scope="module")
def mixed() -> LayerTable:
    return LayerTable.from_graph(capture(Mixed(), torch.rand(1, 4, 16, 12)), torch.rand(1, 4, 20, 10))


def test_rows_of_each_kind_of_layer(mixed: LayerTable) -> None:
    assert [row.name for row in mixed.rows] == ["down", "twice", "twice#2", "up", "head"]
    down, _, again, up, head = mixed.rows
    assert (down.op, down.kernel, down.stride, down.groups) == (Op.CONV, (3, 5), (2, 1), 2)
    assert (down.input_shape, down.output_shape) == ((1, 4, 20, 10), (1, 8, 10, 10))
    assert down.macs == 10 * 10 * 8 * (4 // 2) * 3 * 5
    assert again.macs == 100 * 64
    assert (up.op, up.output_shape) == (Op.CONVTRANSPOSE, (1, 6, 20, 20))
    assert up.macs == 100 * 8 * 6 * 16
    assert (head.op, head.macs, head.output_shape) == (Op.LINEAR, 30, (1, 5))


def test_totals_count_shared_weights_once(mixed: LayerTable) -> None:
    weights = 8 * 2 * 15 + 64 + 8 * 6 * 16 + 30
    assert mixed.weight_elements == weights
    assert mixed.params == weights + 8 + 6 + 5 + 8
    assert mixed.other_params == 8
    assert mixed.macs == sum(row.macs for row in mixed.rows) == 24000 + 2 * 6400 + 76800 + 30


def test_activation_bytes(mixed: LayerTable) -> None:
    down = mixed.row("down")
    assert (down.input_elements, down.output_elements) == (800, 800)
    assert (down.activation_bytes(), down.activation_bytes(8), down.activation_bytes(4)) == (6400, 1600, 800)
    assert mixed.activation_bytes(8) == sum(r.input_elements + r.output_elements for r in mixed.rows)


def test_json_round_trip(mixed: LayerTable) -> None:
    assert LayerTable.model_validate_json(mixed.model_dump_json()) == mixed


def test_bitops_of_a_mixed_plan(mixed: LayerTable) -> None:
    w4 = W8.model_copy(update={"bits": 4})
    layers = {
        "down": LayerPlan(weight=W8, activation=A8),
        "twice": LayerPlan(weight=w4, activation=A8),
        "twice#2": LayerPlan(weight=w4, activation=A8),
        "up": LayerPlan(weight=W8, activation=A8, sparsity=Sparsity(n=2, m=4)),
        "head": LayerPlan(reason="last"),
    }
    per_layer = mixed.layer_bitops(plan_for(layers))
    assert per_layer == {"down": 24000 * 64, "twice": 6400 * 32, "twice#2": 6400 * 32, "up": 76800 * 32,
                         "head": 30 * 1024}  # fmt: skip
    assert mixed.bitops(plan_for(layers)) == sum(per_layer.values())
    assert mixed.layer_bitops(plan_for(layers, "bf16"))["head"] == 30 * 256


def test_errors_name_the_layer_and_the_size(mixed: LayerTable) -> None:
    with pytest.raises(UsageError, match="'twice'"):
        mixed.bitops(plan_for({"down": LayerPlan()}))
    with pytest.raises(UsageError, match="no layer 'nothing'"):
        mixed.row("nothing")
    with pytest.raises(GraphError, match=r"\[1, 5, 20, 10\]"):
        LayerTable.from_graph(capture(Mixed(), torch.rand(1, 4, 16, 12)), torch.rand(1, 5, 20, 10))


def test_rfdn_at_320x180(data: Path) -> None:
    rfdn = table(data, "rfdn_x4.pth", 180, 320)
    assert len(rfdn.rows) == 64
    assert rfdn.params == 433_448
    assert rfdn.row("fea_conv").macs == 180 * 320 * 3 * 50 * 9
    assert rfdn.row("B1.c1_r").macs == 180 * 320 * 50 * 50 * 9
    assert rfdn.row("B1.esa.conv2").output_shape == (1, 12, 89, 159)
    assert rfdn.input_shape == (1, 3, 180, 320)


def test_imdn_params(data: Path) -> None:
    assert table(data, "imdn_x4.pth", 64, 48).params == 715_176


def test_carn_counts_the_shared_block_once(data: Path) -> None:
    model = load_checkpoint(data / "checkpoints" / "carn_m_x234.pth", scale=4)
    carn = table(data, "carn_m_x234.pth", 64, 48, scale=4)
    calls = [row for row in carn.rows if row.name.endswith("#2")]
    assert calls
    assert all(row.macs == carn.row(row.name.removesuffix("#2")).macs for row in calls)
    assert carn.params < sum(row.params for row in carn.rows)
    assert carn.params == model.parameters
