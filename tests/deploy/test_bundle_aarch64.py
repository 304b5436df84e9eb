"""A bundle on another processor: 64-bit Arm, emulated, with Arm builds of the runtimes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from bitwright.runs.job import default_placement
from compress.compressed import CompressedModel
from compress.graph import capture
from deploy.engine import Engine, Runtime
from deploy.engines import load_engine
from deploy.onnx_export import export_float, export_quantized
from deploy.profiling.rows import timed_row
from deploy.remote import Results, audit_elsewhere
from tests.deploy.aarch64 import require_arm
from tests.deploy.bundle_helpers import Bundle, make_bundle, start
from tests.deploy.conftest import Quantize
from tests.deploy.runtimes import IN_BUNDLES, TELL_EXECUTED
from workloads.loading import load_checkpoint

COMPUTE = """
import sys
bundle, runtime, artefact, inputs, outputs = sys.argv[1:]
sys.path.insert(0, bundle)
from pathlib import Path
import numpy as np
from deploy.engines.sessions import SESSIONS
from deploy.runtimes import FloatPrecision, Runtime
xs = np.load(inputs)
session = SESSIONS[Runtime(runtime)](Path(artefact), 1, FloatPrecision.FP32, xs[:1].shape)
np.save(outputs, np.concatenate([session.run(x[None]) for x in xs]))
"""
PACKAGES = {Runtime.LITERT: "ai_edge_litert"}


def outputs(python: Path, bundle: Bundle, engine: Engine, xs: np.ndarray, folder: Path) -> np.ndarray:
    """What an engine gives there for each input, computed by the code of a bundle."""
    artefact, files = folder / f"for-{engine.spec.artefact}", (folder / "inputs.npy", folder / "outputs.npy")
    artefact.write_bytes(engine.file_for(xs[:1].shape))
    np.save(files[0], xs)
    words = (bundle.file, engine.spec.runtime.value, artefact, *files)
    ended = subprocess.run(
        [python, "-c", COMPUTE, *words], capture_output=True, text=True, timeout=300, check=False, cwd="/"
    )
    assert ended.returncode == 0, ended.stderr
    found: np.ndarray = np.load(files[1])
    return found


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """In decibels, of outputs in 0..255."""
    return float(10 * np.log10(255**2 / max(np.mean((found.astype(np.float64) - expected) ** 2), 1e-9)))


@pytest.fixture(scope="module", params=IN_BUNDLES)
def bundle(
    quantized_file: Path, float_file: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Bundle:
    folder = tmp_path_factory.mktemp(f"bundle-{request.param}")
    return make_bundle(folder, quantized_file, float_file, request.param, min_samples=30)


@pytest.fixture(scope="module")
def results(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Results:
    runtime = bundle.manifest.arms[0].spec.runtime
    python = require_arm(PACKAGES.get(runtime, runtime.value))
    out = tmp_path_factory.mktemp("out")
    ended = start(python, bundle.file, out)
    assert ended.returncode == 0, ended.stderr
    return Results.read(out)


def test_engines_compute_on_arm_what_they_compute_here(bundle: Bundle, results: Results) -> None:
    timed = results.comparison(bundle.manifest)
    assert timed.environment.architecture == "aarch64"
    assert timed.environment.cpu_flags == ("asimd", "asimddp", "asimdhp")
    assert timed.elsewhere is not None
    differences = timed.elsewhere.output_differences
    assert set(differences) == {"engine", "float"}
    assert 0.0 <= differences["float"] < 1e-5
    # Sums of the float part are rounded in another order, so that a value may fall to the next integer of a quantiser.
    assert differences["engine"] < 0.02


def test_emulated_times_are_marked_and_enter_no_table(bundle: Bundle, results: Results) -> None:
    timed = results.comparison(bundle.manifest)
    assert timed.environment.emulator == "qemu-aarch64"
    with pytest.raises(UsageError, match="measured under emulation \\(qemu-aarch64\\)"):
        timed_row(timed, "engine", "network", "int8")


def rfdn(data: Path, side: int, runtime: Runtime, quantize: Quantize) -> tuple[nn.Module, CompressedModel, Tensor]:
    """The network in float and in 8 bits, and crops of a side."""
    loaded = load_checkpoint(data / "checkpoints" / "rfdn_x4.pth")
    crops = loaded.workload.calibration(data / "sr" / "test" / "Set5", 4, side, 0)
    return loaded.module, quantize(loaded.module, default_placement(runtime), crops=crops), crops


@pytest.mark.long
@pytest.mark.parametrize("side", [24, 32])
@pytest.mark.parametrize("runtime", IN_BUNDLES)
def test_rfdn_is_as_far_from_its_output_here_as_one_value_of_the_input_moves_it(
    runtime: Runtime, side: int, data: Path, quantize: Quantize, tmp_path: Path
) -> None:
    """Its attention is to the whole picture: one integer that is rounded otherwise moves all outputs, by a level."""
    python = require_arm(PACKAGES.get(runtime, runtime.value))
    network, model, crops = rfdn(data, side, runtime, quantize)
    export_quantized(model, crops[:1], tmp_path / "quantized.onnx")
    export_float(capture(network, crops[:1]), crops[:1], tmp_path / "float.onnx")
    bundle = make_bundle(tmp_path, tmp_path / "quantized.onnx", tmp_path / "float.onnx", runtime, x=crops[:1].numpy())
    engine = load_engine(tmp_path / "engine", 1)
    there = outputs(python, bundle, engine, crops.numpy(), tmp_path)
    here = np.concatenate([engine.run(x[None].numpy()) for x in crops])
    other = crops.clone()
    other[:, 0, side // 2, side // 2] += 1.0
    moved = np.concatenate([engine.run(x[None].numpy()) for x in other])
    with torch.no_grad():
        expected = model.simulate()(crops).numpy()
    assert np.abs(there - here).mean() <= 1.5 * np.abs(moved - here).mean()
    assert psnr(there, expected) > 40.0
    assert psnr(there, expected) > psnr(here, expected) - 1.0


@pytest.mark.long
@pytest.mark.parametrize("runtime", TELL_EXECUTED)
def test_rfdn_computes_on_arm_what_it_computes_here(
    runtime: Runtime, data: Path, quantize: Quantize, tmp_path: Path
) -> None:
    python = require_arm(PACKAGES.get(runtime, runtime.value))
    network, model, crops = rfdn(data, 32, runtime, quantize)
    export_quantized(model, crops[:1], tmp_path / "quantized.onnx")
    export_float(capture(network, crops[:1]), crops[:1], tmp_path / "float.onnx")
    files = (tmp_path / "quantized.onnx", tmp_path / "float.onnx")
    bundle = make_bundle(tmp_path, *files, runtime, x=crops[:1].numpy(), min_samples=30)
    ended = start(python, bundle.file, tmp_path / "out", seconds=1200)
    assert ended.returncode == 0, ended.stderr
    results = Results.read(tmp_path / "out")
    timed = results.comparison(bundle.manifest)
    assert timed.environment.emulator == "qemu-aarch64"
    assert timed.elsewhere is not None
    differences = timed.elsewhere.output_differences
    assert differences["float"] < 1e-4
    assert differences["engine"] < 0.05
    file, spec = results.executed(bundle.manifest)["engine"], bundle.manifest.arms[0].spec
    there = audit_elsewhere(file, tmp_path / "engine", spec, tmp_path / "quantized.onnx", model.plan)
    assert there.executed == {"int8": 64}
