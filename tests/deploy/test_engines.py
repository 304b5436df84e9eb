from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from compress.compressed import CompressedModel
from deploy.engine import FloatPrecision, Runtime
from deploy.engines import ENGINES, SPEC_FILE, build_engine, load_engine, read_spec
from deploy.engines.exported_graph import ExportedGraph, computes_layer
from deploy.engines.onnxruntime_engine import OnnxRuntimeEngine
from deploy.engines.openvino_engine import OpenVinoEngine
from tests.deploy.conftest import BuildOnce
from tests.deploy.runtimes import RUN_ON_CPU

runtimes = pytest.mark.parametrize("runtime", RUN_ON_CPU)


def test_every_runtime_has_an_engine() -> None:
    assert set(ENGINES) == set(Runtime)


@runtimes
def test_float_engine_computes_what_torch_does_at_any_size(
    runtime: Runtime, network: nn.Module, float_file: Path, build_once: BuildOnce, tmp_path: Path
) -> None:
    build_once(float_file, runtime, tmp_path)
    engine = load_engine(tmp_path, threads=1)
    for shape in ((1, 3, 24, 32), (2, 3, 9, 5), (1, 3, 70, 33)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = network(x).numpy()
        output = engine.run(x.numpy())
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, expected, atol=2e-6)


@runtimes
def test_quantised_engine_is_within_one_level_of_the_simulation(
    runtime: Runtime,
    model: CompressedModel,
    quantized_file: Path,
    inputs: Tensor,
    build_once: BuildOnce,
    tmp_path: Path,
) -> None:
    build_once(quantized_file, runtime, tmp_path)
    difference = np.abs(load_engine(tmp_path, threads=1).run(inputs.numpy()) - model.simulate()(inputs).numpy())
    level = float(model.activations["conv2d_3"].scale)
    assert difference.max() < 1.01 * level
    # An intermediate value that lies on a rounding boundary may go either way.
    assert np.mean(difference > 0.01 * level) < 0.05


@runtimes
def test_an_output_survives_the_next_run(
    runtime: Runtime, float_file: Path, inputs: Tensor, build_once: BuildOnce, tmp_path: Path
) -> None:
    build_once(float_file, runtime, tmp_path)
    engine = load_engine(tmp_path, threads=1)
    first = engine.run(inputs[:1].numpy())
    kept = first.copy()
    engine.run(inputs[1:2].numpy())
    np.testing.assert_array_equal(first, kept)


@runtimes
def test_every_layer_is_found_once_in_the_executed_graph(
    runtime: Runtime, float_file: Path, quantized_file: Path, build_once: BuildOnce, tmp_path: Path
) -> None:
    for file, precision in ((float_file, "fp32"), (quantized_file, "int8")):
        build_once(file, runtime, tmp_path)
        exported = ExportedGraph.read(file)
        assert list(exported.layers) == ["head", "body", "body#2", "tail"]
        computing = [n for n in load_engine(tmp_path, threads=1).executed_nodes() if computes_layer(n.op)]
        origins = [origin for node in computing for origin in node.origins if origin in exported.layers.values()]
        assert sorted(origins) == sorted(exported.layers.values())
        assert {node.precision for node in computing} == {precision}


def test_openvino_executes_the_float_precision_that_is_asked_for(float_file: Path, tmp_path: Path) -> None:
    for asked in Runtime.OPENVINO.float_precisions:
        build_engine(float_file, tmp_path, runtime=Runtime.OPENVINO, profile="any", float_precision=asked)
        nodes = load_engine(tmp_path, threads=1).executed_nodes()
        assert {node.precision for node in nodes if node.op == "Convolution"} == {asked.value}


@runtimes
def test_a_shape_to_specialise_on_leaves_the_others_usable(
    runtime: Runtime, network: nn.Module, float_file: Path, inputs: Tensor, tmp_path: Path
) -> None:
    spec = build_engine(float_file, tmp_path, runtime=runtime, profile="any", input_shape=(4, 3, 24, 32))
    assert spec.input_shape == (4, 3, 24, 32)
    engine = load_engine(tmp_path, threads=1)
    for x in (inputs, inputs[:1, :, :7, :9], inputs):
        with torch.no_grad():
            np.testing.assert_allclose(engine.run(x.numpy()), network(x).numpy(), atol=2e-6)
    layers = ExportedGraph.read(float_file).layers.values()
    origins = [origin for node in engine.executed_nodes() for origin in node.origins if origin in layers]
    assert set(origins) == set(layers)


def test_openvino_refuses_a_shape_that_the_network_cannot_take(float_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    with pytest.raises(UsageError, match=r"OpenVINO cannot load"):
        build_engine(float_file, folder, runtime=Runtime.OPENVINO, profile="any", input_shape=(1, 5, 24, 32))
    assert not folder.exists()


def test_openvino_refuses_fp16(float_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    with pytest.raises(UsageError, match="OpenVINO is not asked for fp16 on CPUs; use fp32 or bf16"):
        build_engine(float_file, folder, runtime=Runtime.OPENVINO, profile="any", float_precision=FloatPrecision.FP16)
    assert not folder.exists()


def test_onnxruntime_refuses_bf16(float_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    with pytest.raises(UsageError, match="no bf16 kernels"):
        build_engine(
            float_file, folder, runtime=Runtime.ONNXRUNTIME, profile="any", float_precision=FloatPrecision.BF16
        )
    assert not folder.exists()


@runtimes
def test_input_that_does_not_fit_is_one_clear_line(
    runtime: Runtime, float_file: Path, build_once: BuildOnce, tmp_path: Path
) -> None:
    build_once(float_file, runtime, tmp_path)
    engine = load_engine(tmp_path, threads=1)
    for x, shown in (
        (np.zeros((1, 4, 8, 8), np.float32), r"float32 \[1, 4, 8, 8\]"),
        (np.zeros((1, 3, 8, 8)), "float64"),
    ):
        with pytest.raises(UsageError, match=shown) as caught:
            engine.run(x)
        assert "\n" not in str(caught.value)


@runtimes
def test_a_file_that_is_no_network_leaves_nothing_behind(runtime: Runtime, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a network at all")
    with pytest.raises(UsageError, match=r"bad\.onnx is not an ONNX file"):
        build_engine(bad, tmp_path / "engine", runtime=runtime, profile="any")
    assert not (tmp_path / "engine").exists()


def test_a_changed_artefact_is_refused(float_file: Path, tmp_path: Path) -> None:
    build_engine(float_file, tmp_path, runtime=Runtime.ONNXRUNTIME, profile="any")
    artefact = tmp_path / float_file.name
    artefact.write_bytes(artefact.read_bytes() + b"\0")
    with pytest.raises(UsageError, match=r"float\.onnx is not the file .* rebuild"):
        load_engine(tmp_path, threads=1)
    artefact.unlink()
    with pytest.raises(UsageError, match=r"float\.onnx cannot be read .* rebuild"):
        load_engine(tmp_path, threads=1)


@runtimes
def test_another_runtime_version_asks_for_a_rebuild(
    runtime: Runtime, float_file: Path, build_once: BuildOnce, tmp_path: Path
) -> None:
    build_once(float_file, runtime, tmp_path)
    older = read_spec(tmp_path).model_copy(update={"runtime_version": "0.0.1"})
    (tmp_path / SPEC_FILE).write_text(older.model_dump_json())
    with pytest.raises(UsageError, match=rf"built with {runtime} 0\.0\.1 and .* is installed; rebuild"):
        load_engine(tmp_path, threads=1)


def test_missing_and_damaged_specs_are_told_apart(float_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no engine"):
        load_engine(tmp_path, threads=1)
    build_engine(float_file, tmp_path, runtime=Runtime.ONNXRUNTIME, profile="any")
    spec = json.loads((tmp_path / SPEC_FILE).read_text())
    (tmp_path / SPEC_FILE).write_text(json.dumps(spec | {"runtime": "abacus"}))
    with pytest.raises(UsageError, match="is damaged: runtime"):
        load_engine(tmp_path, threads=1)
    (tmp_path / SPEC_FILE).write_text("{")
    with pytest.raises(UsageError, match="is damaged: file"):
        load_engine(tmp_path, threads=1)


def test_building_in_place_keeps_the_file_and_building_again_gives_the_same_bytes(
    float_file: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        build_engine(float_file, folder, runtime=Runtime.OPENVINO, profile="any")
    build_engine(first / float_file.name, first, runtime=Runtime.OPENVINO, profile="any")
    for folder in (first, second):
        assert sorted(p.name for p in folder.iterdir()) == ["engine.json", "float.onnx"]
    assert (first / SPEC_FILE).read_bytes() == (second / SPEC_FILE).read_bytes()
    assert (first / float_file.name).read_bytes() == float_file.read_bytes()


def test_options_say_what_was_set(float_file: Path, tmp_path: Path) -> None:
    build_engine(float_file, tmp_path, runtime=Runtime.ONNXRUNTIME, profile="any")
    one, two = load_engine(tmp_path, threads=1), load_engine(tmp_path, threads=2)
    assert isinstance(one, OnnxRuntimeEngine)
    assert isinstance(two, OnnxRuntimeEngine)
    assert "session.intra_op.allow_spinning" not in one.options
    assert two.options["session.intra_op.allow_spinning"] == "0"
    assert two.options["intra_op_num_threads"] == "2"
    build_engine(float_file, tmp_path, runtime=Runtime.OPENVINO, profile="any")
    engine = load_engine(tmp_path, threads=2)
    assert isinstance(engine, OpenVinoEngine)
    assert engine.options == {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "2", "NUM_STREAMS": "1"}
    with pytest.raises(UsageError, match="at least 1 thread"):
        load_engine(tmp_path, threads=0)


@runtimes
def test_running_writes_nothing_outside_the_engine(
    runtime: Runtime, float_file: Path, build_once: BuildOnce, tmp_path: Path
) -> None:
    """Telemetry of a runtime package would leave a client id or a consent file in the home folder."""
    home, folder = tmp_path / "home", tmp_path / "engine"
    home.mkdir()
    build_once(float_file, runtime, folder)
    before = sorted(folder.iterdir())
    script = (
        "import sys, numpy; from pathlib import Path; from deploy.engines import load_engine;"
        "engine = load_engine(Path(sys.argv[1]), 1); engine.executed_nodes();"
        "print(engine.run(numpy.zeros((1, 3, 8, 8), 'float32')).shape)"
    )
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(1, 3, 16, 16)\n", done.stderr
    assert list(home.rglob("*")) == []
    assert sorted(folder.iterdir()) == before
