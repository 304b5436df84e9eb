"""What a report says of zeros on a device with sparse kernels; the builder's answers are made up, in its own form."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from bitwright.report.pruned import SparsityResult
from bitwright.runs.sparse_kernels import Effect, effect, in_vain
from compress.graph import capture
from compress.layer_table import LayerTable
from compress.nm_pattern import Sparsity
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from deploy.engine import SparseTactics
from hw_profiles import load_profile

ARCH = load_profile("rtx-4090").arch


class Net(nn.Module):
    """Two wide layers with equal MACs, one in two groups and a narrow one."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 320, 1)
        self.first = nn.Conv2d(320, 320, 1)
        self.second = nn.Conv2d(320, 320, 1)
        self.grouped = nn.Conv2d(320, 320, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.grouped(self.second(torch.relu(self.first(torch.relu(self.narrow(x))))))


@cache
def layers_of_net() -> LayerTable:
    example = torch.rand(1, 3, 8, 8)
    return LayerTable.from_graph(capture(Net(), example), example)


def parts(*names: str, pattern: str = "2:4") -> tuple[LayerTable, Plan]:
    table = layers_of_net()
    layers = {
        row.name: LayerPlan(
            weight=W8, activation=A8, sparsity=Sparsity.parse(pattern) if row.name in names else None
        )
        for row in table.rows
    }  # fmt: skip
    plan = Plan(architecture="net", device="rtx-4090", runtime="tensorrt", float_precision="fp16",
                placement=Placement.INPUTS, layers=layers)  # fmt: skip
    return table, plan


def told(*names: str, pattern: str = "2:4", tactics: SparseTactics | None = None) -> Effect:
    table, plan = parts(*names, pattern=pattern)
    return effect(table, plan, ARCH, tactics, {row.name: row.name for row in table.rows}, compiled=True)


def test_layers_that_a_builder_picked_are_told_as_a_share_of_the_macs() -> None:
    table, _ = parts()
    one = next(row.macs for row in table.rows if row.name == "first")
    share = f"{100 * one / table.macs:.0f} % of the MACs"
    found = SparseTactics(eligible=2, picked=1, eligible_layers=("first", "second"), picked_layers=("first + relu",))
    said = told("first", "second", tactics=found)
    assert not said.size_only
    assert said.told.endswith(f"picked sparse kernels for 1: {share}")
    assert f"Sparse kernels exist for {200 * one / table.macs:.0f} %" in said.told
    unnamed = told("first", tactics=SparseTactics(eligible=2, picked=2)).told
    assert unnamed.endswith("picked sparse kernels for 2, of which 0 are known by name")
    assert told("first", tactics=SparseTactics(eligible=2, picked=0)).told.endswith("picked sparse kernels for 0")


def test_what_is_pruned_beyond_two_of_four_is_warned_of_where_kernels_are_used() -> None:
    said = told("first", pattern="1:8")
    assert not said.size_only
    assert said.warning.startswith("1:8 on sparse tensor cores runs as 2:4 does")
    assert told("first", pattern="2:4").warning == told("first", pattern="1:2").warning == ""
    # No kernel of a narrow layer is used at all, which is told as the effect.
    assert in_vain(*parts("narrow", pattern="1:8"), ARCH) == ""


def test_why_a_runtime_with_sparse_kernels_gains_nothing_is_told_of_the_layers_at_hand() -> None:
    for names, pattern, why in (
        (("grouped",), "2:4", "at least 257 input and 257 output channels"),
        (("first",), "4:8", "4:8 weights need not be 2:4"),
    ):
        said = told(*names, pattern=pattern)
        assert said.size_only
        assert "size only" in said.told
        assert why in said.told


def test_old_reports_have_no_warning() -> None:
    sizes = {"raw_bytes": 9, "deflated_bytes": 8, "packed_bytes": 7, "unpacked_bytes": 9}
    told = SparsityResult.model_validate(
        {"asked": "2:4", "layers": {"2:4": 1}, "zeros": 0.5, "size_only": True, "effect": "", "warning": "why", **sizes}
    )
    old = told.model_dump()
    assert old.pop("warning") == "why"
    assert SparsityResult.model_validate(old).warning == ""
