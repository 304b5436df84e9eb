"""TensorRT-RTX engines once they are built: stamps and records that do not fit, and running on the GPU they are for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.foundation.errors import DeviceError, UsageError
from deploy import gpu_match
from deploy.cuda_library import CudaLibrary
from deploy.engines import SPEC_FILE, load_engine, read_spec
from deploy.engines.cuda_driver import DriverCuda
from deploy.engines.tensorrt_record import RECORD_FILE
from deploy.engines.tensorrt_session import TensorRtSession
from hw_profiles import load_profile
from tests.deploy.driver_helpers import compile_driver
from tests.deploy.test_tensorrt_engine import DEVICE, build, device_of
from tests.marks import GPU, needs_compiler, needs_gpu

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
MEMBER = str(GPU).upper().replace("_", "")


@pytest.fixture(scope="module")
def built(symmetric_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(symmetric_file, folder, load_profile(DEVICE))
    return folder


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    for path in built.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.engine
def test_an_engine_of_another_version_profile_or_state_is_refused(copied: Path) -> None:
    spec = read_spec(copied)
    with pytest.raises(UsageError, match="was compiled for rtx-3060, not for rtx-4090; rebuild"):
        load_engine(copied, 1, device=load_profile("rtx-4090"))
    changed = load_profile(DEVICE).model_copy(update={"notes": "changed"})
    with pytest.raises(UsageError, match="was compiled for rtx-3060, which has changed since; rebuild"):
        load_engine(copied, 1, device=changed)
    (copied / SPEC_FILE).write_text(spec.model_copy(update={"runtime_version": "1.6.0"}).model_dump_json())
    with pytest.raises(UsageError, match=r"was built with tensorrt-rtx 1\.6\.0 and .* is installed; rebuild"):
        load_engine(copied, 1)


@pytest.mark.engine
def test_a_changed_engine_or_record_is_refused(copied: Path) -> None:
    told = (copied / RECORD_FILE).read_text()
    # Layers that would be audited as another precision than they were built in.
    assert told.count('"Int8"') > 1
    (copied / RECORD_FILE).write_text(told.replace('"Int8"', '"Half"'))
    with pytest.raises(UsageError, match=r"build\.json is not the record that its engine was stamped with; rebuild"):
        load_engine(copied, 1)
    other = json.dumps(json.loads(told) | {"engine_sha256": "0" * 64})
    (copied / RECORD_FILE).write_text(other)
    spec = read_spec(copied)
    stamp = spec.model_copy(update={"record_sha256": hashlib.sha256(other.encode()).hexdigest()})
    (copied / SPEC_FILE).write_text(stamp.model_dump_json())
    with pytest.raises(UsageError, match=r"build\.json is not the record of the engine beside it; rebuild"):
        load_engine(copied, 1)
    (copied / SPEC_FILE).write_text(spec.model_copy(update={"record_sha256": None}).model_dump_json())
    (copied / RECORD_FILE).write_text(told)
    with pytest.raises(UsageError, match="is not the record that its engine was stamped with"):
        load_engine(copied, 1)
    (copied / SPEC_FILE).write_text(spec.model_dump_json())
    load_engine(copied, 1)
    (copied / RECORD_FILE).unlink()
    with pytest.raises(UsageError, match=r"build\.json cannot be read .* rebuild"):
        load_engine(copied, 1)
    artefact = copied / "net.engine"
    artefact.write_bytes(artefact.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(UsageError, match=r"net\.engine is not the file .* rebuild"):
        load_engine(copied, 1)


@pytest.mark.engine
@pytest.mark.usefixtures("no_gpu")
def test_running_without_the_gpu_says_which_one_is_needed(built: Path) -> None:
    engine = load_engine(built, 1)
    with pytest.raises(DeviceError, match=r"net\.engine cannot run here: .* compute capability 8\.6 \(rtx-3060\)"):
        engine.run(np.zeros((1, 3, 24, 32), np.float32))
    for x, shown in ((np.zeros((1, 3, 4, 4), np.float32), r"\[1, 3, 4, 4\]"), (np.zeros((1, 3, 24, 32)), "float64")):
        with pytest.raises(UsageError, match=rf"cannot run .*{shown}.*takes float32 from \[1, 3, 8, 8\]"):
            engine.run(x)


@pytest.mark.engine
@needs_compiler
@pytest.mark.skipif(GPU is not None, reason="the driver here is one that the package takes")
def test_a_driver_that_the_package_does_not_take_is_told_in_its_words(built: Path, tmp_path: Path) -> None:
    cuda = DriverCuda(CudaLibrary(str(compile_driver(tmp_path))))
    told = r"does not load the engine \(.*CUDA driver version is insufficient.*\); update the driver of the GPU if that"
    with pytest.raises(UsageError, match=told) as caught:
        TensorRtSession(tensorrt_rtx, (built / "net.engine").read_bytes(), cache=tmp_path / "c", cuda=cuda)
    assert "\n" not in str(caught.value)


@pytest.mark.engine
@needs_gpu
@pytest.mark.skipif(MEMBER not in tensorrt_rtx.ComputeCapability.__members__, reason=f"TensorRT-RTX has no {GPU}")
@pytest.mark.parametrize("graph", [False, True])
def test_on_its_gpu_it_computes_what_torch_does_and_tells_its_stages(
    graph: bool, network: nn.Module, inputs: Tensor, float_file: Path, tmp_path: Path
) -> None:
    device = device_of(str(GPU))
    engine = build(float_file, tmp_path, device)
    if graph:
        engine.use_cuda_graph()
    with torch.no_grad():
        expected = network(inputs).numpy()
    for x, wanted in ((inputs, expected), (inputs.flip(0), expected[::-1]), (inputs[:1], expected[:1])):
        assert np.abs(engine.run(x.numpy()) - wanted).max() < 1e-4 * np.ptp(expected)
        stages = engine.gpu_stages_ms()
        assert stages is not None
        assert min(stages) > 0.0


@pytest.mark.engine
def test_on_another_gpu_it_says_what_to_rebuild(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_match, "driver_gpu", lambda: "8.9")
    with pytest.raises(DeviceError) as caught:
        load_engine(built, 1).run(np.zeros((1, 3, 24, 32), np.float32))
    assert "8.6 (rtx-3060) and the GPU here has 8.9; for this one, compress with a --device" in str(caught.value)
    monkeypatch.setattr(gpu_match, "driver_gpu", lambda: "8.6")
    assert load_engine(built, 1).why_not_here() is None
