"""Another machine with a GPU, as far as there is none: its Python, its package of TensorRT-RTX, and its driver."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from tests.deploy.driver_helpers import compile_driver
from tests.deploy.far_machine import bare_python


def gpu_python(folder: Path, version: str | None, *, nvml: bool = False) -> Path:
    """A Python with numpy and, unless that is None, this version of TensorRT-RTX; see `far_tensorrt`.

    `nvml`: with NVIDIA's own package that reads clocks.
    """
    python = bare_python(folder)
    if nvml:
        spec = importlib.util.find_spec("pynvml")
        assert spec is not None
        assert spec.origin is not None
        (next((folder / "lib").glob("python*")) / "site-packages" / "pynvml.py").symlink_to(spec.origin)
    if version is not None:
        (site,) = (folder / "lib").glob("python*/site-packages")
        module = site / "tensorrt_rtx.py"
        shutil.copy(Path(__file__).with_name("far_tensorrt.py"), module)
        module.write_text(f'{module.read_text()}\n\n__version__ = "{version}"\n')
        told = site / f"tensorrt_rtx-{version}.dist-info" / "METADATA"
        told.parent.mkdir()
        told.write_text(f"Metadata-Version: 2.1\nName: tensorrt-rtx\nVersion: {version}\n")
    return python


def driver_environment(folder: Path) -> dict[str, str]:
    """The environment in which the driver of `fake_driver.cpp` is found."""
    return {"LD_LIBRARY_PATH": str(compile_driver(folder).parent)}
