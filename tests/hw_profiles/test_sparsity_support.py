"""The capability table: no target without an entry ever gains time from zeros."""

from __future__ import annotations

from itertools import product

import pytest

from hw_profiles import DType, Op, RuntimeEngine, profile_ids
from hw_profiles.loading import load_profile
from hw_profiles.sparsity_support import support_table, why_size_only, work_left

WIDE = {"features": ("sparse_2_4",), "in_channels": 512, "out_channels": 512}
PATTERNS = [(2, 4), (1, 4), (1, 8), (4, 8), (1, 32), (1, 2)]


@pytest.mark.parametrize("runtime", [entry.runtime for entry in support_table().size_only])
def test_runtimes_that_ignore_zeros_never_gain(runtime: str) -> None:
    for op, dtype, (n, m) in product(Op, DType, PATTERNS):
        assert work_left(runtime, op, dtype, n, m, **WIDE) == 1.0
    assert why_size_only(runtime)


def test_every_runtime_of_the_profiles_has_its_say_and_unknown_ones_gain_nothing() -> None:
    said = {e.runtime for e in support_table().entries} | {e.runtime for e in support_table().size_only}
    assert {engine.value for engine in RuntimeEngine} <= said
    assert work_left("a runtime of tomorrow", Op.CONV, DType.INT8, 2, 4, **WIDE) == 1.0
    assert "no kernel of it is known" in why_size_only("a runtime of tomorrow")


@pytest.mark.parametrize(
    ("op", "dtype", "pattern", "more", "left"),
    [
        (Op.CONV, DType.INT8, (2, 4), {}, 0.5),
        (Op.CONV, DType.INT8, (1, 32), {}, 0.5),
        (Op.CONV, DType.INT8, (4, 8), {}, 1.0),
        (Op.CONV, DType.INT8, (4, 4), {}, 1.0),
        (Op.CONV, DType.FP32, (2, 4), {}, 1.0),
        (Op.CONV, DType.INT8, (2, 4), {"in_channels": 64}, 1.0),
        (Op.CONV, DType.INT8, (2, 4), {"features": ()}, 1.0),
        (Op.CONVTRANSPOSE, DType.INT8, (2, 4), {}, 1.0),
    ],
)
def test_tensor_cores_gain_under_all_conditions_only(
    op: Op, dtype: DType, pattern: tuple[int, int], more: dict[str, object], left: float
) -> None:
    """Beyond 2:4 nothing more is gained: 1:32 runs at the speed of 2:4."""
    assert work_left("tensorrt", op, dtype, *pattern, **{**WIDE, **more}) == left


def test_table_and_device_profiles_agree_on_what_is_native() -> None:
    for name in profile_ids():
        profile = load_profile(name)
        engines = [r.engine.value for r in profile.runtimes]
        native = any(s.native for s in profile.sparsity)
        gains = any(
            work_left(e, Op.CONV, DType.INT8, 2, 4, features=tuple(profile.arch.features), in_channels=512,
                      out_channels=512) < 1 for e in engines
        )  # fmt: skip
        assert gains <= native, name


def test_float32_holds_one_of_two_in_torch() -> None:
    assert work_left("torch", Op.LINEAR, DType.FP32, 1, 2, **WIDE) == 0.5
    assert work_left("torch", Op.LINEAR, DType.FP32, 2, 4, **WIDE) == 1.0
    assert work_left("torch", Op.CONV, DType.FP16, 2, 4, **WIDE) == 1.0
