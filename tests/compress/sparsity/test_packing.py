"""Packed weights: exact round trips in every layout, and the bytes that the formulas say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from bitwright.foundation.errors import CheckpointError, UsageError
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import LayerKind, WeightLayout
from compress.sparsity.legality import check
from compress.sparsity.masks import nm_mask
from compress.sparsity.packed_file import load_packed, save_packed
from compress.sparsity.packing import pack, unpack
from compress.sparsity.storage import Layout, cheapest, index_bits, legal, ratio_to_dense

LINEAR = WeightLayout(LayerKind.LINEAR)
TYPES = {torch.float32: 32, torch.float16: 16, torch.bfloat16: 16, torch.int8: 8}


def sparse(pattern: Sparsity, shape: tuple[int, ...], layout: WeightLayout, dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.randn(shape) if dtype.is_floating_point else torch.randint(-127, 128, shape)
    kept = nm_mask(weight.abs().float(), pattern, layout) & (torch.rand(shape) > 0.2)
    return weight.to(dtype).masked_fill(~kept, 0)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("text", ["2:4", "1:2", "1:4", "1:8", "4:8", "1:16", "1:32", "16:32", "3:6"])
def test_every_layout_round_trips_bit_for_bit_in_the_bytes_of_the_formula(text: str, dtype: torch.dtype) -> None:
    pattern = Sparsity.parse(text)
    for kind, shape in (
        (LINEAR, (5, 96)),
        (WeightLayout(LayerKind.CONV), (3, 96, 3, 1)),
        (WeightLayout(LayerKind.CONV_TRANSPOSE, 2), (192, 2, 2, 2)),
    ):
        weight = sparse(pattern, shape, kind, dtype)
        groups = math.prod(shape) // pattern.m
        for layout in Layout:
            if not legal(pattern, layout, TYPES[dtype]):
                with pytest.raises(UsageError, match="cannot hold"):
                    pack(weight, pattern, kind, layout)
                continue
            packed = pack(weight, pattern, kind, layout)
            assert torch.equal(unpack(packed), weight)
            index = math.ceil(groups * index_bits(pattern, layout, TYPES[dtype]) / 8)
            assert packed.bytes == groups * pattern.n * weight.element_size() + index


@settings(max_examples=60, deadline=None)
@given(m=st.integers(2, 40), n=st.integers(1, 40), rows=st.integers(1, 5), seed=st.integers(0, 9999))
def test_any_pattern_round_trips(m: int, n: int, rows: int, seed: int) -> None:
    pattern = Sparsity(n=min(n, m), m=m)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 3 * m, generator=generator)
    weight = weight.masked_fill(~nm_mask(weight.abs(), pattern, LINEAR), 0.0)
    for layout in Layout:
        if legal(pattern, layout, 32):
            assert torch.equal(unpack(pack(weight, pattern, LINEAR, layout)), weight)


@pytest.mark.parametrize(
    ("text", "ratios"),
    [("2:4", (0.531, 0.5625, 0.625)), ("1:4", (0.266, 0.281, 0.3125)), ("1:8", (0.137, 0.148, 0.172)),
     ("1:16", (0.070, 0.078, 0.094)), ("1:32", (0.036, 0.041, 0.051)), ("1:128", (0.0095, 0.011, 0.015))],
)  # fmt: skip
def test_golden_ratios_of_coordinates(text: str, ratios: tuple[float, ...]) -> None:
    found = [ratio_to_dense(Sparsity.parse(text), bits, Layout.COORDINATE) for bits in (32, 16, 8)]
    assert found == pytest.approx(list(ratios), abs=6e-4)


def test_the_cheapest_layout_is_taken() -> None:
    assert cheapest(Sparsity.parse("2:4"), 16) is Layout.COMBINATORIAL
    assert index_bits(Sparsity.parse("2:4"), Layout.COMBINATORIAL, 16) == 3
    assert index_bits(Sparsity.parse("2:4"), Layout.HARDWARE, 16) == 4
    assert cheapest(Sparsity.parse("1:8"), 8) is Layout.COORDINATE
    assert index_bits(Sparsity.parse("1:2"), Layout.HARDWARE, 32) == 1
    assert not legal(Sparsity(n=40, m=128), Layout.COMBINATORIAL, 8)


def test_hardware_holds_one_of_two_in_float32() -> None:
    """Trap: a 2:4 weight in float32 is not what sparse tensor cores hold."""
    weight = sparse(Sparsity.parse("2:4"), (4, 8), LINEAR, torch.float32)
    with pytest.raises(UsageError, match="hardware cannot hold 2:4 of 32-bit"):
        pack(weight, Sparsity.parse("2:4"), LINEAR, Layout.HARDWARE)


def test_a_surplus_value_is_refused_and_not_dropped() -> None:
    """Trap: a packer that trusts its input drops values by position."""
    weight = torch.zeros(1, 8)
    weight[0, 4:7] = 1.0
    with pytest.raises(UsageError, match="3 values other than zero; 2:4 allows 2"):
        pack(weight, Sparsity.parse("2:4"), LINEAR)
    assert check(weight, Sparsity.parse("2:4"), LINEAR).worst == 3
    assert check(weight, Sparsity.parse("2:4"), LINEAR).zeros == pytest.approx(5 / 8)
    # A short last group may hold N values like any other, and no more.
    assert check(torch.tensor([[0.0, 0, 0, 1, 1, 1]]), Sparsity.parse("2:4"), LINEAR).holds
    assert not check(torch.tensor([[0.0, 0, 0, 1, 1, 1]]), Sparsity.parse("1:4"), LINEAR).holds


def test_more_than_two_of_four_is_no_tensor_core_mask() -> None:
    """Trap: 4:8 is half as dense as 2:4 asks for, and still not 2:4."""
    weight = torch.zeros(1, 8)
    weight[0, :4] = 1.0
    assert check(weight, Sparsity.parse("4:8"), LINEAR).holds
    assert not check(weight, Sparsity.parse("2:4"), LINEAR).holds


def test_files_round_trip_and_are_smaller(tmp_path: Path) -> None:
    pattern = Sparsity.parse("1:8")
    kind = WeightLayout(LayerKind.CONV)
    tensors = {"a.weight": sparse(pattern, (64, 64, 3, 3), kind, torch.float32), "a.bias": torch.randn(64)}
    path, dense = tmp_path / "packed.safetensors", tmp_path / "dense.safetensors"
    save_packed(path, tensors, {"a.weight": (pattern, kind)})
    save_file(tensors, dense)
    back = load_packed(path)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)
    assert path.stat().st_size < 0.15 * dense.stat().st_size
    with pytest.raises(CheckpointError, match="not a packed"):
        load_packed(dense)
    tensors["a.weight"][0, :2] = 1.0
    with pytest.raises(UsageError, match=r"a\.weight: the weight cannot be packed"):
        save_packed(path, tensors, {"a.weight": (pattern, kind)})


@pytest.mark.parametrize("layout", [Layout.COORDINATE, Layout.BITMAP, Layout.COMBINATORIAL])
def test_an_incomplete_or_damaged_file_is_told_in_one_line(tmp_path: Path, layout: Layout) -> None:
    pattern, kind, path = Sparsity.parse("1:8"), WeightLayout(LayerKind.CONV), tmp_path / "packed.safetensors"
    save_packed(path, {"w": sparse(pattern, (8, 16, 3, 3), kind, torch.float32)}, {"w": (pattern, kind)}, layout)
    with safe_open(path, framework="pt") as file:
        whole, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert set(whole) == {"w/values", "w/index"}
    for part in whole:
        save_file({name: value for name, value in whole.items() if name != part}, path, metadata=metadata)
        with pytest.raises(CheckpointError, match=f"lacks the tensor {part}; the file is incomplete"):
            load_packed(path)
        save_file(whole | {part: whole[part][:-1].clone()}, path, metadata=metadata)
        with pytest.raises(CheckpointError, match="the packed weight w is damaged: its values and places"):
            load_packed(path)
    save_file(whole, path, metadata={"bitwright": metadata["bitwright"].replace("1:8", "8:1")})
    with pytest.raises(CheckpointError, match="the packed weight w is damaged: "):
        load_packed(path)
