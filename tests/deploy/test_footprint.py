"""What a device needs for an engine, from the metadata of what is installed here."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from bitwright.foundation.errors import UsageError
from deploy.engine import Runtime
from deploy.engines import SPEC_FILE, build_engine, read_spec
from deploy.footprint import footprint
from hw_profiles import load_profile
from tests.deploy.conftest import BuildOnce
from tests.marks import needs_compiler
from workloads.super_resolution.format import Color, SRFormat


@pytest.mark.parametrize("runtime", [Runtime.ONNXRUNTIME, Runtime.OPENVINO])
def test_files_and_the_runtime_with_its_packages(runtime: Runtime, quantized_file: Path, tmp_path: Path) -> None:
    build_engine(quantized_file, tmp_path, runtime=runtime, profile="any")
    found = footprint(tmp_path)
    assert found.files == {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    names = [package.name for package in found.packages]
    assert names[0] == runtime.value
    assert "numpy" in names
    assert not {"torch", "onnx", "sympy"} & set(names)
    versions = {package.name: package.version for package in found.packages}
    assert versions["numpy"] == metadata.version("numpy")
    sizes = {package.name: package.bytes for package in found.packages}
    folder = Path(metadata.distribution(runtime.value).locate_file(runtime.value))
    on_disk = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.suffix in {".so", ".py"})
    assert (sizes[runtime.value] or 0) >= on_disk > 10_000_000
    assert found.bytes == sum(found.files.values()) + sum(size or 0 for size in sizes.values())


def test_litert_needs_its_onnx_file_for_pictures_of_other_sizes(quantized_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'bitwright[edge]'")
    for name, io in (("classes", None), ("pictures", SRFormat(2, Color.RGB, 1.0))):
        build_engine(quantized_file, tmp_path / name, runtime=Runtime.LITERT, profile="any", super_resolution=io)
    pictures, classes = footprint(tmp_path / "pictures"), footprint(tmp_path / "classes")
    assert pictures.files == {p.name: p.stat().st_size for p in (tmp_path / "pictures").iterdir()}
    assert set(pictures.files) - set(classes.files) == {"quantized.onnx"}
    assert pictures.packages[0].name == "ai-edge-litert"
    assert pictures.beside == ()


@needs_compiler
def test_torch_needs_a_gpu_where_its_package_is_for_one(
    float_file: Path, build_once: BuildOnce, tmp_path: Path
) -> None:
    build_once(float_file, Runtime.TORCH, tmp_path)
    found = footprint(tmp_path)
    assert set(found.files) == {"float.pt2", SPEC_FILE}
    assert (found.packages[0].name, found.beside) == ("torch", ())
    # Code for a GPU cannot be compiled here: the stamp of an engine for one.
    stamp = read_spec(tmp_path).model_copy(update={"compute_capability": "8.9"})
    (tmp_path / SPEC_FILE).write_text(stamp.model_dump_json())
    assert footprint(tmp_path).beside == (
        "an NVIDIA GPU of compute capability 8.9 with its driver", "a build of torch for CUDA"
    )  # fmt: skip


def test_tensorrt_needs_its_record_and_a_gpu(float_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'bitwright[tensorrt-rtx]'")
    device = load_profile("rtx-3060")
    build_engine(float_file, tmp_path, runtime=Runtime.TENSORRT_RTX, profile=device.id, device=device)
    found = footprint(tmp_path)
    assert found.files == {name: (tmp_path / name).stat().st_size for name in ("float.engine", SPEC_FILE, "build.json")}
    assert found.packages[0].name == "tensorrt-rtx"
    assert found.beside == ("an NVIDIA GPU of compute capability 8.6 with its driver",)


def test_a_folder_without_an_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        footprint(tmp_path)
