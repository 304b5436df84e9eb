"""A bundle on another processor: 64-bit Arm, emulated, with Arm builds of the runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.foundation.errors import UsageError
from bitwright.runs.job import default_placement
from compress.graph import capture
from deploy.engine import Runtime
from deploy.engines.sessions import EXECUTED_SUFFIX
from deploy.onnx_export import export_float, export_quantized
from deploy.profiling.rows import timed_row
from deploy.remote import Results, audit_elsewhere
from tests.deploy.aarch64 import require_arm
from tests.deploy.bundle_helpers import Bundle, make_bundle, start
from tests.deploy.conftest import Quantize
from tests.deploy.runtimes import IN_BUNDLES
from workloads.loading import load_checkpoint

PACKAGES = {Runtime.LITERT: "ai_edge_litert"}


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


# Not explained yet: on crops of 24x24, RFDN in 8 bits was off by 7.6 there in OpenVINO (unsigned activations; no Arm
# profile names it) and by 7.1 in LiteRT (signed ones).
@pytest.mark.long
@pytest.mark.parametrize("runtime", [runtime for runtime in IN_BUNDLES if runtime in EXECUTED_SUFFIX])
def test_rfdn_computes_on_arm_what_it_computes_here(
    runtime: Runtime, data: Path, quantize: Quantize, tmp_path: Path
) -> None:
    python = require_arm(PACKAGES.get(runtime, runtime.value))
    loaded = load_checkpoint(data / "checkpoints" / "rfdn_x4.pth")
    crops = loaded.workload.calibration(data / "sr" / "test" / "Set5", 4, 32, 0)
    model = quantize(loaded.module, default_placement(runtime), crops=crops)
    export_quantized(model, crops[:1], tmp_path / "quantized.onnx")
    export_float(capture(loaded.module, crops[:1]), crops[:1], tmp_path / "float.onnx")
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
