"""What a device needs for an engine, from the metadata of what is installed here."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from bitwright.foundation.errors import UsageError
from deploy.engine import Runtime
from deploy.engines import build_engine
from deploy.footprint import footprint


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


def test_a_folder_without_an_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        footprint(tmp_path)
