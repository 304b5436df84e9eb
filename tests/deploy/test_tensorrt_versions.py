"""Plain TensorRT 10 and 11 through the builder that TensorRT-RTX uses; see `fake_tensorrt` for the module."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from bitwright.foundation.errors import DeviceError, UsageError
from compress.compressed import CompressedModel
from deploy import gpu_match
from deploy.audit import audit
from deploy.engine import Runtime, ShapeRange
from deploy.engines import build_engine, load_engine
from hw_profiles import load_profile
from tests.deploy.fake_tensorrt import fake_tensorrt

SHAPES = ShapeRange.around((1, 3, 24, 32), 8)
DEVICE = load_profile("rtx-4090")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a GPU of 8.9 and a home of its own."""
    monkeypatch.setattr(gpu_match, "driver_gpu", lambda: "8.9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def install(monkeypatch: pytest.MonkeyPatch, version: str, gpu: str = "sm89") -> ModuleType:
    module = fake_tensorrt(version, gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def build(file: Path, folder: Path) -> None:
    build_engine(file, folder, runtime=Runtime.TENSORRT, profile=DEVICE.id, device=DEVICE, shapes=SHAPES)


@pytest.mark.parametrize("version", ["10.13.3.9", "11.3.0"])
def test_networks_are_strongly_typed_in_both_versions(
    version: str, symmetric: CompressedModel, symmetric_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install(monkeypatch, version)
    build(symmetric_file, tmp_path / "engine")
    (seen,) = module.seen
    assert seen.network.strong
    assert seen.config.flags == set()
    assert seen.config.profiling_verbosity is module.ProfilingVerbosity.DETAILED
    (profile,) = seen.config.profiles
    assert list(profile.shapes.values()) == [(SHAPES.smallest, SHAPES.usual, SHAPES.largest)]
    engine = load_engine(tmp_path / "engine", 1, device=DEVICE)
    assert engine.spec.runtime_version == version
    result = audit(engine, symmetric_file, symmetric.plan)
    result.require()
    assert result.executed == {"int8": 4}


def test_builds_share_the_times_of_kernels(
    symmetric_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, gpu, timed in (
        ("10.13.3.9", "sm89", [4, 0]),
        # Another version has a cache of its own; one that another card of the same architecture wrote is refused.
        ("11.3.0", "sm89", [4, 0]),
        ("11.3.0", "sm89 with fewer cores", [4, 0]),
    ):
        module = install(monkeypatch, version, gpu)
        for number in range(2):
            folder = tmp_path / f"{version}-{gpu}-{number}"
            build(symmetric_file, folder)
            assert sorted(path.suffix for path in folder.iterdir()) == [".engine", ".json", ".json", ".onnx"]
        assert [len(seen.timed) for seen in module.seen] == timed
    kept = sorted(path.name for path in (tmp_path / "caches" / "bitwright" / "tensorrt").iterdir())
    assert kept == ["tensorrt-10.13.3.9-sm89.timing.cache", "tensorrt-11.3.0-sm89.timing.cache"]


def test_a_gpu_that_is_not_the_one_to_build_for_is_named(
    symmetric_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "11.3.0")

    def none() -> str:
        raise DeviceError("NVIDIA's driver finds no GPU")

    for here, found in ((lambda: "8.6", "the GPU here has 8.6; for this"), (none, "there is no GPU here: NVIDIA's")):
        monkeypatch.setattr(gpu_match, "driver_gpu", here)
        told = rf"build it on such a machine or use .* tensorrt-rtx: it needs .* 8\.9 \(rtx-4090\) and {found}"
        with pytest.raises(UsageError, match=told):
            build(symmetric_file, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
