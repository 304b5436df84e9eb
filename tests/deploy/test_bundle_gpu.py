"""Bundles of TensorRT-RTX engines: built here, measured by a process that has stand-ins of the package and the driver.

The engines are real, and neither a GPU nor the real package has run them: see `far_tensorrt` and `fake_driver.cpp`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.foundation.errors import DeviceError, UsageError
from compress.compressed import CompressedModel
from deploy.engine import Runtime, ShapeRange
from deploy.engines import build_engine, read_spec
from deploy.latency import Candidate, Noise
from deploy.remote import Results, write_bundle
from deploy.remote.sample_log import SAMPLES
from hw_profiles import load_profile
from tests.deploy.bundle_helpers import SHAPE, Bundle, make_bundle, protocol, start
from tests.deploy.driver_helpers import CALL_MS, COPY_MS
from tests.deploy.far_gpu import driver_environment, gpu_python
from tests.deploy.test_nvidia_power import compiled
from tests.marks import needs_compiler, needs_tensorrt_rtx

pytestmark = [pytest.mark.engine, needs_compiler, needs_tensorrt_rtx]
DEVICE = load_profile("rtx-4090")
X = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
ARMS = ("engine", "float")
Make = Callable[..., Bundle]


@pytest.fixture(scope="module")
def networks(network: nn.Module, symmetric: CompressedModel) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    def run(module: nn.Module, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    return {"engine": lambda x: run(symmetric.simulate(), x), "float": lambda x: run(network, x)}


@pytest.fixture(scope="module")
def engines(symmetric_file: Path, float_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Candidate]:
    folder = tmp_path_factory.mktemp("engines")
    shapes = ShapeRange.around(SHAPE, 8)
    for name, file in zip(ARMS, (symmetric_file, float_file), strict=True):
        runtime = Runtime.TENSORRT_RTX
        build_engine(file, folder / name, runtime=runtime, profile=DEVICE.id, device=DEVICE, shapes=shapes)
    return [Candidate(name, folder / name) for name in ARMS]


@pytest.fixture
def make(engines: list[Candidate], networks, tmp_path: Path, no_gpu: None) -> Make:
    def write(**settings: float) -> Bundle:
        file = tmp_path / "bundle.pyz"
        how = protocol(**settings)
        manifest = write_bundle(file, engines, X, how, run=tmp_path, device=DEVICE, networks=networks)
        return Bundle(file, manifest)

    return write


@pytest.fixture(scope="module")
def python(engines: list[Candidate], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpu_python(tmp_path_factory.mktemp("far") / "venv", read_spec(engines[0].folder).runtime_version)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return driver_environment(tmp_path_factory.mktemp("driver"))


@pytest.mark.parametrize("graph", [False, True])
def test_a_gpu_s_engines_are_measured_with_numpy_their_package_and_the_driver(
    graph: bool, make: Make, python: Path, driver: dict[str, str], networks, tmp_path: Path
) -> None:
    bundle = make(cuda_graph=graph)
    ended = start(python, bundle.file, tmp_path / "out", **driver)
    assert ended.returncode == 0, ended.stderr
    silent = "power and temperature of the GPU are not recorded: NVML's package is not installed; install it with: pip"
    assert silent in ended.stdout
    result = Results.read(tmp_path / "out").comparison(bundle.manifest)
    version = bundle.manifest.arms[0].spec.runtime_version
    assert {"tensorrt-rtx": version}.items() <= result.environment.libraries.items()
    assert "torch" not in result.environment.libraries
    assert result.elsewhere is not None
    assert result.elsewhere.simulated == ARMS
    computed = X.repeat(2, 2).repeat(2, 3)
    for name in ARMS:
        measurement = result.measurement(name)
        assert measurement.output_shape == computed.shape
        assert measurement.starved_samples == 0
        stages = measurement.gpu
        assert stages is not None
        assert stages.graph is graph
        assert len(stages.compute_ms) == len(measurement.samples_ms) >= 29
        for times, each in ((stages.to_device_ms, COPY_MS), (stages.compute_ms, CALL_MS), (stages.to_host_ms, COPY_MS)):
            assert times == pytest.approx([each] * len(times))
        difference = float(np.abs(computed.astype(np.float64) - networks[name](X)).max())
        assert result.elsewhere.output_differences[name] == pytest.approx(difference)
        assert difference > 0.1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["lock", SAMPLES]


def test_clocks_power_and_throttling_of_the_gpu_come_back(make: Make, driver: dict[str, str], tmp_path: Path) -> None:
    bundle = make()
    libraries = compiled(tmp_path)
    there = driver | {"LD_LIBRARY_PATH": f"{driver['LD_LIBRARY_PATH']}:{libraries}"}
    python = gpu_python(tmp_path / "venv", bundle.manifest.arms[0].spec.runtime_version, nvml=True)
    ended = start(python, bundle.file, tmp_path / "out", **there)
    assert ended.returncode == 0, ended.stderr
    assert "not recorded" not in ended.stdout
    result = Results.read(tmp_path / "out").comparison(bundle.manifest)
    assert [gpu.name for gpu in result.environment.gpus] == ["Card 1", "Card 2", "Card 3"]
    assert result.environment.gpus[0].power_limit_w == 700.0
    for heat in (result.heat_before, result.heat_after):
        assert heat is not None
        first = heat.gpus[0]
        assert (first.clock_mhz, first.temperature_c) == (1755.0, 61.0)
        assert first.throttle_reasons == ("power cap", "thermal slowdown by hardware")
    assert all(Noise.THROTTLED in result.measurement(name).noise for name in ARMS)


def test_the_same_engines_make_the_same_bundle(make: Make) -> None:
    first = make()
    content = first.file.read_bytes()
    assert make().manifest == first.manifest
    assert first.file.read_bytes() == content
    assert make(cuda_graph=True).manifest.digest != first.manifest.digest


def test_a_session_that_was_cut_short_goes_on_with_its_stages(
    make: Make, python: Path, driver: dict[str, str], tmp_path: Path
) -> None:
    bundle, out = make(), tmp_path / "out"
    assert start(python, bundle.file, out, **driver).returncode == 0
    lines = (out / SAMPLES).read_bytes().splitlines(keepends=True)
    kept = lines[: 2 + 4]
    assert [json.loads(line)["record"] for line in kept] == ["head", "ready", *["round"] * 4]
    (out / SAMPLES).write_bytes(b"".join(kept))
    assert start(python, bundle.file, out, **driver).returncode == 0
    results = Results.read(out)
    assert len(results.sessions) == 2
    assert len(results.sessions[0].rounds) == 4
    stages = results.comparison(bundle.manifest).measurement("engine").gpu
    assert stages is not None
    assert stages.counts(sum(len(record.blocks["engine"].wall_ns) for record in results.rounds))


@pytest.mark.parametrize(
    ("settings", "code", "told"),
    [
        (
            {"LD_LIBRARY_PATH": ""},
            5,
            "and there is no GPU here: NVIDIA's driver cannot be loaded (libcuda.so.1: cannot",
        ),
        ({"FAKE_GPUS": "0"}, 5, "NVIDIA's driver does not start: cuInit: no CUDA-capable device is detected"),
        (
            {"FAKE_CAPABILITY": "86"},
            5,
            "capability 8.9 (rtx-4090) and the GPU here has 8.6; for this one, compress with",
        ),
        ({"FAKE_BYTES": "0"}, 5, "the GPU has no memory left for a CUDA context; end what else uses it"),
        ({"FAKE_BYTES": "9999"}, 5, "no memory left for an input of [1, 3, 24, 32]; end what else uses it"),
    ],
)
def test_a_machine_that_cannot_run_them_says_why_before_anything_is_timed(
    settings: dict[str, str], code: int, told: str, make: Make, python: Path, driver: dict[str, str], tmp_path: Path
) -> None:
    ended = start(python, make().file, tmp_path / "out", **(driver | settings))
    assert ended.returncode == code
    assert ended.stderr.startswith("error: engine 'engine': ")
    assert ended.stderr.count("\n") == 1
    assert told in ended.stderr
    assert b'"ready"' not in (tmp_path / "out" / SAMPLES).read_bytes()


@pytest.mark.parametrize("there", [None, "1.6.0.5"])
def test_the_very_version_of_the_package_is_asked_for(
    there: str | None, make: Make, driver: dict[str, str], tmp_path: Path
) -> None:
    bundle = make()
    ended = start(gpu_python(tmp_path / "venv", there), bundle.file, tmp_path / "out", **driver)
    assert ended.returncode == 2
    version = bundle.manifest.arms[0].spec.runtime_version
    found = "is not installed (No module named 'tensorrt_rtx')" if there is None else f"{version} and 1.6.0.5 is inst"
    assert found in ended.stderr
    assert f"pip install 'tensorrt-rtx=={version}'" in ended.stderr


def resealed(lines: list[bytes]) -> bytes:
    """A log with a seal that fits."""
    body = b"".join(lines[:-1])
    end = json.loads(lines[-1]) | {"sha256": hashlib.sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


def test_samples_without_all_of_their_stages_are_refused(
    make: Make, python: Path, driver: dict[str, str], tmp_path: Path
) -> None:
    bundle, out = make(), tmp_path / "out"
    assert start(python, bundle.file, out, **driver).returncode == 0
    whole = (out / SAMPLES).read_bytes().splitlines(keepends=True)
    for lost, told in ((0, "does not tell the stages of just those runs that were on a GPU"), (1, "differ in length")):
        record = json.loads(whole[5])
        block = record["blocks"]["float"]
        if len(block["gpu_ms"]) == 1:
            block["wall_ns"], block["cpu_ns"] = block["wall_ns"] * 2, block["cpu_ns"] * 2
            block["gpu_ms"] *= 2
        block["gpu_ms"] = block["gpu_ms"][:lost]
        changed = [*whole]
        changed[5] = json.dumps(record).encode() + b"\n"
        (out / SAMPLES).write_bytes(resealed(changed))
        with pytest.raises(UsageError, match=told):
            Results.read(out).comparison(bundle.manifest)


def test_what_cannot_be_measured_there_is_not_bundled(
    engines: list[Candidate], networks, quantized_file: Path, float_file: Path, tmp_path: Path, no_gpu: None
) -> None:
    out = tmp_path / "x.pyz"
    with pytest.raises(DeviceError, match=r"cannot run here: .* 8\.9 \(rtx-4090\) and there is no GPU here"):
        write_bundle(out, engines, X, protocol(), run=tmp_path)
    low = np.zeros((1, 3, 4, 4), np.float32)
    with pytest.raises(UsageError, match=r"cannot run float32 \[1, 3, 4, 4\]: the engine takes float32 from \[1, 3, 8"):
        write_bundle(out, engines, low, protocol(), run=tmp_path, networks=networks)
    with pytest.raises(UsageError, match="was compiled for rtx-4090, not for rtx-3060; rebuild the engine"):
        write_bundle(out, engines, X, protocol(), run=tmp_path, device=load_profile("rtx-3060"), networks=networks)
    assert not out.exists()
    with pytest.raises(UsageError, match="runs on the processor; CUDA graphs are for engines that run on a GPU"):
        make_bundle(tmp_path, quantized_file, float_file, cuda_graph=True)
