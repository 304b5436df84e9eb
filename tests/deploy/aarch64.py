"""An Arm machine in user space: Python for 64-bit Arm with numpy and the runtimes, emulated by QEMU.

`python tests/deploy/aarch64.py` makes it from Debian's packages and Arm wheels, on a Debian machine with root's rights
(apt-get, for `qemu-user-static`). Tests that need it skip where it was not made. Times taken in it mean nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("BITWRIGHT_AARCH64", Path(__file__).resolve().parents[2] / ".aarch64"))
EMULATOR = "qemu-aarch64-static"
SYSTEM = (
    "libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5",
    "libcrypt1", "libuuid1", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib",
)  # fmt: skip
WHEELS = ("numpy", "onnxruntime", "openvino", "ai-edge-litert", "flatbuffers", "protobuf", "packaging")
TAGS = tuple(f"manylinux_2_{minor}_aarch64" for minor in (17, 27, 28, 31, 34, 35))
CPUINFO = """processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0b
CPU revision\t: 1

"""
"""A Cortex-A76, which QEMU is told to be: it hands through the files of this machine, and libraries read those."""
ALONE = ("core_siblings_list", "core_cpus_list", "cluster_cpus_list", "package_cpus_list", "thread_siblings_list",
         "core_id", "physical_package_id")  # fmt: skip


def arm_python() -> Path | None:
    """The interpreter, which is started as any other; None where it was not made or there is no emulator."""
    python = FOLDER / "python3"
    return python if python.is_file() and shutil.which(EMULATOR) else None


def require_arm(*packages: str) -> Path:
    """The interpreter; skips the test where it was not made, or before these packages belonged to it."""
    python = arm_python()
    if python is None or not all((FOLDER / "site" / package).is_dir() for package in packages):
        pytest.skip("there is no such Arm machine: python tests/deploy/aarch64.py makes one")
    return python


def make(folder: Path) -> None:
    """Make the machine in `folder`, whatever was there before."""
    shutil.rmtree(folder, ignore_errors=True)
    root, packages, wheels, site = (folder / name for name in ("root", "packages", "wheels", "site"))
    for path in (root, packages, wheels, site):
        path.mkdir(parents=True)
    _run("dpkg", "--add-architecture", "arm64")
    _run("apt-get", "-qq", "update")
    _run("apt-get", "-qq", "install", "-y", "--no-install-recommends", "qemu-user-static")
    _run("apt-get", "-qq", "download", *(f"{name}:arm64" for name in SYSTEM), cwd=packages)
    for package in packages.iterdir():
        _run("dpkg-deb", "-x", str(package), str(root))
    versions = [f"{name}=={importlib.metadata.version(name)}" for name in WHEELS]
    platforms = [word for tag in TAGS for word in ("--platform", tag)]
    _run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version",
         "3.11", *platforms, "--dest", str(wheels), *versions)  # fmt: skip
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as file:
            file.extractall(site)
    _write_system_files(root)
    python = folder / "python3"
    python.write_text(
        f'#!/bin/sh\nPYTHONHOME="{root}/usr" PYTHONPATH="{site}" exec {EMULATOR} -cpu cortex-a76 -0 "$0" -L "{root}" '
        f'"{root}/usr/bin/python3.11" "$@"\n'
    )
    python.chmod(0o755)
    _run(
        str(python),
        "-c",
        "import ai_edge_litert.interpreter, onnxruntime, openvino, platform; assert platform.machine() == 'aarch64'",
    )


def _write_system_files(root: Path) -> None:
    cpu = root / "sys/devices/system/cpu"
    (cpu / "cpu0/topology").mkdir(parents=True)
    (cpu / "cpu0/cache").mkdir()
    for name in ("possible", "present", "online"):
        (cpu / name).write_text("0\n")
    for name in ALONE:
        (cpu / "cpu0/topology" / name).write_text("0\n")
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(CPUINFO)


def _run(*words: str, cwd: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(words, cwd=cwd, check=True, timeout=600, env=environment, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    make(FOLDER)
    sys.stdout.write(f"{FOLDER / 'python3'} is ready\n")
