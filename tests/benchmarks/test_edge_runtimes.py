"""The comparison with runtimes of another environment: what can be told of it where there is none."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common import NOTHING
from benchmarks.edge_arms import RUNTIMES, OtherEnvironment
from benchmarks.edge_ncnn import INT8_TAG, quantized, read, write
from benchmarks.edge_runtimes import left_out, parser, table_of
from benchmarks.edge_session import EdgeEngine, EdgeSession, measure
from benchmarks.nm_stacks import Stack, build, export
from benchmarks.session import Timing
from bitwright.foundation.errors import UsageError, VerificationError
from deploy.engine import Runtime
from deploy.latency import Clock
from hw_profiles import DType

HERE = Path(sys.executable)


def test_without_another_environment_its_runtimes_are_left_out_in_words() -> None:
    given = parser().parse_args(["--data-root", "data"])
    assert OtherEnvironment.of(given.edge_python) is None
    assert left_out(None) == "ExecuTorch and ncnn are left out: no --edge-python was given."


@pytest.mark.parametrize("words", ["exit 3", "raise"])
def test_an_environment_that_does_not_answer_is_refused(tmp_path: Path, words: str) -> None:
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/sh\n{words}\n")
    broken.chmod(0o755)
    for python in (broken, tmp_path / "nothing"):
        with pytest.raises(UsageError, match=f"--edge-python {python} does not run"):
            OtherEnvironment.of(python)


def test_an_environment_with_another_torch_is_refused(tmp_path: Path) -> None:
    """Trap: a network that was exported by one version and is read, or not, by another."""
    (tmp_path / "torch-2.7.0.dist-info").mkdir()
    (tmp_path / "torch-2.7.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.7.0\n")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '[\"{tmp_path}\"]'\n")
    python.chmod(0o755)
    with pytest.raises(UsageError, match=r"has torch 2\.7\.0, .* install torch"):
        OtherEnvironment.of(python)


def test_packages_that_lack_are_named() -> None:
    found = OtherEnvironment.of(HERE)
    assert found is not None
    absent = [name for runtime in RUNTIMES for name in runtime.wanted if find_spec(name) is None]
    assert [runtime.name for runtime in RUNTIMES if not found.has(runtime)] == list(
        dict.fromkeys(runtime.name for runtime in RUNTIMES if {*runtime.wanted} & {*absent})
    )
    for name in absent:
        assert name in left_out(found)
    assert bool(absent) is bool(left_out(found))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    stack = Stack(kernel=3, width=16, depth=2, side=12)
    export(stack, None, DType.FP32, tmp_path / "model.onnx")
    build(stack, tmp_path / "model.onnx", tmp_path / "engine", Runtime.ONNXRUNTIME, "x86-avx2")
    np.save(tmp_path / "input.npy", stack.example().numpy())
    return tmp_path / "engine"


@pytest.mark.engine
def test_a_session_keeps_the_samples_that_its_ratios_come_from(engine: Path) -> None:
    """Trap: a ratio of other samples than those that are kept."""
    timing = Timing(seconds=0.05, side=12)
    files = {"a": "1", "b": "2"}
    engines = [EdgeEngine(name, "bitwright", engine) for name in files]
    session = measure(engines, files, engine.parent / "input.npy", timing)
    a, b = session.times("a"), session.times("b")
    for times in (a, b):
        assert len(times.block_sizes) == len(session.order)
        assert len(times.samples_ms) == len(times.cpu_ms) == sum(times.block_sizes)
        assert [sample for block in times.blocks() for sample in block] == [*times.samples_ms]
    assert session.ratio("b", "a") == np.median(a.samples_ms) / np.median(b.samples_ms)
    assert session.ratio("b", "a", Clock.CPU) == np.median(a.cpu_ms) / np.median(b.cpu_ms)
    assert session.speedup("b", "a").blocks == len(session.order)
    assert {name for round_ in session.order for name in round_} == {"a", "b"}
    again = EdgeSession.model_validate_json(session.model_dump_json())
    shape = session.input_shape
    assert again.is_of(files, timing, shape)
    assert not again.is_of({**files, "b": "3"}, timing, shape)
    assert not again.is_of(files, Timing(seconds=0.05, side=12, threads=2), shape)


@pytest.mark.engine
def test_a_worker_elsewhere_has_nothing_of_bitwright_but_the_runner(engine: Path, tmp_path: Path) -> None:
    """Trap: bitwright must be installed beside ExecuTorch, whose packages it does not go with."""
    elsewhere = EdgeEngine("a", "bitwright", engine, python=HERE)
    with elsewhere.worker(tmp_path, 1) as worker:
        assert worker.ask("info")["peak_rss_bytes"] > 0
        with pytest.raises(VerificationError, match=r"cannot import name 'load_engine' from 'deploy\.engines'"):
            elsewhere.load(worker, engine, engine.parent / "input.npy", 1)


def ncnn_file(path: Path, weights: list[np.ndarray]) -> None:
    """Three convolutions of one weight for each pair of channels; the second reads the first through a Split."""
    shapes = [array.shape for array in weights]
    lines = ["7767517", "5 6", "Input in0 0 1 in0"]
    lines += [f"Convolution a 1 1 in0 1 0={shapes[0][0]} 1=1 5=1 6={weights[0].size} 9=2 -23310=1,0.05"]
    lines += ["Split s 1 2 1 2 3"]
    lines += [f"Convolution b 1 1 2 4 0={shapes[1][0]} 1=1 6={weights[1].size}"]
    lines += [f"Convolution c 1 1 3 5 0={shapes[2][0]} 1=1 6={weights[2].size}"]
    path.write_text("\n".join(lines) + "\n")
    bias = np.full(shapes[0][0], 0.5, np.float32)
    content = [b"\0" * 4 + weights[0].tobytes() + bias.tobytes(), *(b"\0" * 4 + w.tobytes() for w in weights[1:])]
    path.with_suffix(".bin").write_bytes(b"".join(content))


def test_convolutions_of_ncnn_in_8_bits_as_its_own_tools_write_them(tmp_path: Path) -> None:
    weights = [np.array(rows, np.float32) for rows in ([[1.0], [-2.0], [0.0]], [[3.0, 1.5, 0.3]], [[1.0, 1.0, 1.0]])]
    ncnn_file(tmp_path / "float.param", weights)
    layers = read(tmp_path / "float.param")
    assert [layer.kind for layer in layers] == ["Input", "Convolution", "Split", "Convolution", "Convolution"]
    done = quantized(layers, {"in0": 0.5, "2": 2.0, "3": 2.0})
    write(tmp_path / "int8.param", tmp_path / "float.param", done)
    lines = (tmp_path / "int8.param").read_text().splitlines()
    assert lines[3] == "Convolution a 1 1 in0 1 0=3 1=1 5=1 6=3 9=2 -23310=1,0.05 8=102"
    assert lines[5].endswith(" 8=2")
    content = (tmp_path / "int8.bin").read_bytes()
    tag = INT8_TAG.to_bytes(4, "little")
    bias = np.full(3, 0.5, np.float32).tobytes()
    first = tag + bytes([127, 129, 0, 0]) + bias + np.array([127, 63.5, 1, 254, 63.5], np.float32).tobytes()
    assert content.startswith(first)
    second = tag + bytes([127, 64, 13, 0]) + np.array([127 / 3.0, 63.5], np.float32).tobytes()
    assert content[len(first) :].startswith(second)


def test_weights_of_unknown_layers_are_not_passed_over(tmp_path: Path) -> None:
    """Trap: every later layer reads the weights of the one before."""
    ncnn_file(tmp_path / "a.param", [np.ones((1, 1), np.float32)] * 3)
    with (tmp_path / "a.bin").open("ab") as file:
        file.write(b"\0" * 8)
    with pytest.raises(ValueError, match="8 bytes of weights belong to layers that are not known"):
        read(tmp_path / "a.param")


def test_the_table_has_a_row_for_each_engine() -> None:
    paired = {"ratio": 2.0, "low": 1.9, "high": 2.1, "verdict": "faster", "blocks": 9}
    row = {"engine": "ncnn int8", "int8_layers": 3, "layers": 4, "set5_db": 30.1234, "median_ms": 12.34, "ratio": 2.04,
           "cpu_median_ms": 12.28, "cpu_ratio": 1.96,
           "paired": paired, "model_bytes": 27_400, "runtime_bytes": None, "all_bytes": 61_500_000}  # fmt: skip
    last = [cell.strip() for cell in table_of([row]).splitlines()[-1].strip("|").split("|")]
    assert last[:5] == ["ncnn int8", "3/4", "30.123", "12.3", "2.04"]
    assert last[5:] == ["2.00 [1.90, 2.10]", "12.3", "1.96", "27", NOTHING, "62"]
