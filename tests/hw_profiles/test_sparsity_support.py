"""The capability table: no target without an entry ever gains time from zeros."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from hw_profiles import DType, Op, RuntimeEngine, profile_ids
from hw_profiles.loading import load_profile
from hw_profiles.sparsity_support import Use, support_table, why_size_only, work_left

WIDE: dict[str, Any] = {"features": ("sparse_2_4",), "isa": "sm_86", "in_channels": 257, "out_channels": 257}
PATTERNS = [(2, 4), (1, 4), (1, 8), (4, 8), (1, 32), (1, 2)]


def use(runtime: str, op: Op, dtype: DType, n: int, m: int, **more: Any) -> Use:
    return Use(runtime, op, dtype, n, m, **{**WIDE, **more})


@pytest.mark.parametrize("runtime", [entry.runtime for entry in support_table().size_only])
def test_runtimes_that_ignore_zeros_never_gain(runtime: str) -> None:
    for op, dtype, (n, m) in product(Op, DType, PATTERNS):
        assert work_left(use(runtime, op, dtype, n, m)) == 1.0
    assert why_size_only(use(runtime, Op.CONV, DType.INT8, 2, 4)) in {e.note for e in support_table().size_only}


def test_every_runtime_of_the_profiles_has_its_say_and_unknown_ones_gain_nothing() -> None:
    said = {e.runtime for e in support_table().entries} | {e.runtime for e in support_table().size_only}
    assert {engine.value for engine in RuntimeEngine} <= said
    unknown = use("a runtime of tomorrow", Op.CONV, DType.INT8, 2, 4)
    assert work_left(unknown) == 1.0
    assert "no kernel of it is known" in why_size_only(unknown)


@pytest.mark.parametrize(
    ("op", "dtype", "pattern", "more", "why"),
    [
        (Op.CONV, DType.INT8, (2, 4), {}, ""),
        (Op.CONV, DType.INT8, (1, 32), {}, ""),
        (Op.CONV, DType.INT8, (4, 8), {}, "4:8 weights need not be 2:4"),
        (Op.CONV, DType.INT8, (4, 4), {}, "4:4 weights need not be 2:4"),
        (Op.CONV, DType.FP32, (2, 4), {}, "compute in fp16, bf16, int8"),
        (Op.CONV, DType.INT8, (2, 4), {"in_channels": 256}, "at least 257 input and 257 output channels"),
        (Op.CONV, DType.INT8, (2, 4), {"out_channels": 256}, "at least 257 input and 257 output channels"),
        (Op.CONV, DType.INT8, (2, 4), {"features": ()}, "no sparse tensor cores"),
        (Op.CONVTRANSPOSE, DType.INT8, (2, 4), {}, "are for conv, linear, matmul"),
    ],
)
def test_tensor_cores_gain_under_all_conditions_only(
    op: Op, dtype: DType, pattern: tuple[int, int], more: dict[str, Any], why: str
) -> None:
    """Beyond 2:4 nothing more is gained: 1:32 takes the time of 2:4. Where nothing is gained, the reason is told."""
    asked = use("tensorrt", op, dtype, *pattern, **more)
    assert work_left(asked) == (1.0 if why else 0.5)
    if why:
        assert why in why_size_only(asked)


def test_table_and_device_profiles_agree_on_what_is_native() -> None:
    for name in profile_ids():
        profile = load_profile(name)
        engines = [r.engine.value for r in profile.runtimes]
        native = any(s.native for s in profile.sparsity)
        gains = any(
            work_left(use(e, Op.CONV, DType.INT8, 2, 4, features=tuple(profile.arch.features))) < 1 for e in engines
        )  # fmt: skip
        assert gains <= native, name


def test_profiles_tell_the_channels_that_the_table_asks_for() -> None:
    told = 0
    for name in profile_ids():
        profile = load_profile(name)
        engines, features = {r.engine.value for r in profile.runtimes}, set(profile.arch.features)
        for sparsity in (s for s in profile.sparsity if s.native):
            asked = {
                (entry.min_in_channels, entry.min_out_channels)
                for entry in support_table().entries
                if entry.runtime in engines and set(entry.features) <= features
                and sparsity.pattern in entry.patterns and set(sparsity.ops) <= set(entry.ops)
            }  # fmt: skip
            assert asked == {(sparsity.min_in_channels, sparsity.min_out_channels)}, name
            told += 1
    assert told


def test_float32_holds_one_of_two_in_torch() -> None:
    assert work_left(use("torch-eager", Op.LINEAR, DType.FP32, 1, 2)) == 0.5
    assert work_left(use("torch-eager", Op.LINEAR, DType.FP32, 2, 4)) == 1.0
    assert work_left(use("torch-eager", Op.CONV, DType.FP16, 2, 4)) == 1.0
    # CUTLASS, which has the kernels for float32, is for SM8x.
    hopper = use("torch-eager", Op.LINEAR, DType.FP32, 1, 2, isa="sm_90")
    assert work_left(hopper) == 1.0
    assert work_left(use("torch-eager", Op.LINEAR, DType.FP16, 2, 4, isa="sm_90")) == 0.5
    # What engines of torch are has no such kernels.
    assert work_left(use("torch", Op.LINEAR, DType.FP16, 2, 4)) == 1.0
    assert "AOTInductor packages" in why_size_only(use("torch", Op.LINEAR, DType.INT8, 2, 4))
