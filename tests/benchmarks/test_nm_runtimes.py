"""The truth table of runtimes: like is compared with like, and no speed-up is claimed where no kernel is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import nm_runtimes
from benchmarks.nm_runtimes import CONTRADICTED, FASTER, NO_GAIN, TOLERANCE, runtimes, table_of, verdict
from benchmarks.nm_stacks import Stack, build, export
from bitwright.foundation.errors import UsageError, VerificationError
from compress.nm_pattern import Sparsity
from deploy.engines import load_engine
from deploy.latency import Clock, Speedup, Verdict
from hw_profiles import DType
from hw_profiles.sparsity_support import SIZE_ONLY

SMALL = Stack(kernel=3, width=32, depth=2, side=12)
NUMBERS = {DType.FP32: 4, DType.INT8: 1}
QUICK = ("onnxruntime", "openvino")
"""Runtimes that build an engine within a second; what is built of all of them is another test."""


def speedup(low: float | None, ratio: float, high: float | None) -> Speedup:
    return Speedup(ratio=ratio, low=low, high=high, verdict=Verdict.FASTER, blocks=9, clock=Clock.CPU)


def test_where_no_kernel_is_known_nothing_is_ever_faster() -> None:
    """Trap: a lucky session, or a ratio that holds other causes, is told as the gain of sparsity."""
    for ratio in (0.5, 0.951, 1.0, 1.049, 1.06, 1.3, 6.4):
        said = verdict(1.0, ratio, speedup(ratio * 0.99, ratio, ratio * 1.01))
        assert said.startswith(SIZE_ONLY)
        assert FASTER not in said
        assert (said == CONTRADICTED) is (abs(ratio - 1) >= TOLERANCE)
    assert verdict(0.5, 1.3, speedup(1.2, 1.3, 1.4)) == FASTER
    assert verdict(0.5, 1.01, speedup(0.99, 1.01, 1.03)) == NO_GAIN
    assert verdict(0.5, 1.3, speedup(None, 1.3, None)) == NO_GAIN


@pytest.mark.engine
@pytest.mark.parametrize(
    "dtype", [DType.INT8, *(pytest.param(d, marks=pytest.mark.long) for d in NUMBERS if d is not DType.INT8)]
)
def test_dense_and_sparse_engines_execute_the_same_kernels(tmp_path: Path, dtype: DType) -> None:
    """Trap: a dense 3x3 kernel that is not the runtime's fastest (Winograd, where it has one) is a weak baseline."""
    files = [tmp_path / name / "model.onnx" for name in ("dense", "sparse")]
    for pattern, file in zip((None, Sparsity.parse("1:8")), files, strict=True):
        export(SMALL, pattern, dtype, file)
    for runtime in runtimes():
        kernels = []
        for file in files:
            folder = file.with_name(runtime.value)
            build(SMALL, file, folder, runtime, "x86-avx2")
            nodes = load_engine(folder, 1).executed_nodes()
            kernels.append([(node.op, node.kernel, node.precision) for node in nodes])
        assert kernels[0] == kernels[1]
        assert any(dtype.value in precision or precision in ("f32", "fp32") for _, _, precision in kernels[0])


def test_sizes_are_those_of_the_formula_and_zeros_alone_save_nothing(tmp_path: Path) -> None:
    weights = SMALL.depth * SMALL.width**2 * SMALL.kernel**2
    sizes = {}
    for dtype, width in NUMBERS.items():
        for text in ("dense", "2:4", "1:8"):
            pattern = None if text == "dense" else Sparsity.parse(text)
            sizes[dtype, text] = export(SMALL, pattern, dtype, tmp_path / dtype.value / text / "model.onnx")
        dense = sizes[dtype, "dense"]
        assert dense.packed == weights * width
        assert sizes[dtype, "1:8"].packed == weights // 8 * (8 * width + 3) // 8
        assert sizes[dtype, "1:8"].raw == pytest.approx(dense.raw, rel=0.02)
        assert sizes[dtype, "1:8"].deflated < 0.5 * dense.deflated
    # 8 bits alone are smaller than 2:4 in float: without this row a table tells half of the story.
    assert sizes[DType.INT8, "dense"].packed < sizes[DType.FP32, "2:4"].packed


def test_a_stack_that_lost_its_pattern_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = SMALL.graph(None)
    monkeypatch.setattr(Stack, "graph", lambda self, pattern: dense)
    with pytest.raises(VerificationError, match="is not 2:4"):
        export(SMALL, Sparsity.parse("2:4"), DType.FP32, tmp_path / "model.onnx")


@pytest.mark.engine
def test_the_benchmark_compares_within_a_precision_and_writes_its_table(tmp_path: Path) -> None:
    """Trap: ratios that mix int8 with sparsity; the dense engine in 8 bits must be among the rows."""
    words = ["--out", str(tmp_path), "--patterns", "1:8", "--kernels", "1", "--width", "16", "--depth", "2",
             "--side", "12", "--seconds", "0.05", "--samples", "4", "--runtimes", *QUICK]  # fmt: skip
    text = nm_runtimes.benchmark(nm_runtimes.parser().parse_args(words))
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == 2 * 2 * len(QUICK)
    for row in rows:
        assert row["baseline"] == f"{row['runtime']} dense {row['precision']}"
        assert row["n"] >= 4
        if row["pattern"] == "dense":
            assert (row["ratio"], row["verdict"]) == (1.0, "")
        else:
            assert row["work_left"] == 1.0
            assert row["verdict"].startswith(SIZE_ONLY)
    assert {(r["precision"], r["pattern"]) for r in rows} >= {("int8", "dense"), ("fp32", "dense")}
    assert FASTER not in text
    written = (tmp_path / "results.json").read_text()
    assert str(tmp_path) not in written
    assert str(Path(nm_runtimes.__file__).parent) not in written
    for said, within in ((CONTRADICTED, 0), (SIZE_ONLY, 4)):
        judged = [{**row, "verdict": said} if row["pattern"] != "dense" else row for row in rows]
        assert table_of(judged).endswith(f"\n\nWhere no kernel is known, {within} of 4 ratios lie within 5 % of 1.")


def test_a_runtime_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="'tensorrt' is not among onnxruntime"):
        runtimes(["tensorrt"])


def test_stacks_differ_in_their_zeros_only() -> None:
    dense, sparse = SMALL.graph(None), SMALL.graph(Sparsity.parse("1:4"))
    for name, value in dense.state_dict().items():
        found = sparse.state_dict()[name]
        assert bool(((found == value) | (found == 0)).all())
    assert replace(SMALL, kernel=1).name == "2 x 1x1, 32 channels"
