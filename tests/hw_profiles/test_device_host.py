"""Recognising machines from what their operating system says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from hw_profiles import detect_host, installed_runtimes, match_host
from hw_profiles.cpuinfo import (
    parse_cpuinfo,
    parse_gpu_names,
    parse_meminfo_gb,
    parse_sysctl,
    parse_sysctl_memory_gb,
)
from hw_profiles.host import Host, host_from_cpu

TEXTS = Path(__file__).parent / "cpuinfo"
BOTH = {"onnxruntime": "1.32.0", "openvino": "2026.4.1"}


def host(name: str, machine: str) -> Host:
    return host_from_cpu(parse_cpuinfo((TEXTS / f"{name}.txt").read_text(encoding="utf-8")), machine)


@pytest.mark.parametrize(
    ("name", "machine", "expected"),
    [
        ("haswell", "x86_64", ["x86-avx2"]),
        ("alder_lake", "AMD64", ["x86-avx-vnni", "x86-avx2"]),
        ("zen4", "x86_64", ["x86-avx512-vnni-bf16", "x86-avx512-vnni", "x86-avx2"]),
        ("pi4", "aarch64", ["raspberry-pi-4"]),
        ("pi5", "aarch64", ["raspberry-pi-5", "arm-dotprod"]),
        ("neoverse_v1", "aarch64", ["arm-i8mm", "arm-dotprod"]),
        ("big_little", "aarch64", []),
    ],
)
def test_best_profile_comes_first(name: str, machine: str, expected: list[str]) -> None:
    assert [match.profile.id for match in match_host(host(name, machine), installed=BOTH)] == expected


def test_sapphire_rapids_is_amx_before_everything_it_also_has() -> None:
    found = [match.profile.id for match in match_host(host("sapphire_rapids", "x86_64"), installed=BOTH)]
    assert found[0] == "x86-amx"
    assert set(found[1:]) == {"x86-avx512-vnni-bf16", "x86-avx512-vnni", "x86-avx-vnni", "x86-avx2"}


def test_cpuinfo_of_x86_and_arm() -> None:
    zen = parse_cpuinfo((TEXTS / "zen4.txt").read_text(encoding="utf-8"))
    assert (zen.model, zen.vendor, zen.processors) == ("AMD EPYC 9554 64-Core Processor", "AuthenticAMD", 2)
    assert {"avx512_vnni", "avx512_bf16"} <= zen.flags
    assert "amx_int8" not in zen.flags
    pi = parse_cpuinfo((TEXTS / "pi4.txt").read_text(encoding="utf-8"))
    assert (pi.model, pi.vendor, pi.processors) == ("Cortex-A72", "Arm", 4)
    assert pi.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert "asimddp" not in pi.flags
    mixed = parse_cpuinfo((TEXTS / "big_little.txt").read_text(encoding="utf-8"))
    assert mixed.model == "Cortex-A55 + Cortex-A76"
    assert mixed.flags == {"fp", "asimd", "crc32"}
    assert parse_cpuinfo("").flags == frozenset()


@pytest.mark.parametrize(("name", "profile"), [("apple_m1", "arm-dotprod"), ("apple_m2", "arm-i8mm")])
def test_apple_features_are_translated(name: str, profile: str) -> None:
    text = (TEXTS / f"{name}_sysctl.txt").read_text(encoding="utf-8")
    cpu = parse_sysctl(text)
    assert (cpu.vendor, cpu.processors) == ("Apple", 8)
    assert match_host(host_from_cpu(cpu, "arm64", system="Darwin"), installed=BOTH)[0].profile.id == profile
    assert parse_sysctl_memory_gb(text) == pytest.approx(17.18, abs=0.01)


def test_memory_and_gpu_names() -> None:
    assert parse_meminfo_gb("MemTotal:        8000000 kB\nMemFree: 1 kB\n") == pytest.approx(8.192)
    assert parse_meminfo_gb("") is None
    assert parse_gpu_names("NVIDIA GeForce RTX 4090\n\nNVIDIA A100-SXM4-80GB \n") == (
        "NVIDIA GeForce RTX 4090",
        "NVIDIA A100-SXM4-80GB",
    )


def test_gpu_wins_once_its_runtime_is_installed() -> None:
    machine = replace(host("zen4", "x86_64"), gpus=("NVIDIA GeForce RTX 4090",))
    assert match_host(machine, installed=BOTH)[0].profile.id == "x86-avx512-vnni-bf16"
    assert "rtx-4090" in [match.profile.id for match in match_host(machine, installed=BOTH)]
    best = match_host(machine, installed={**BOTH, "tensorrt": "11.3.0"})[0]
    assert best.profile.id == "rtx-4090"
    assert best.reasons == ("this machine has NVIDIA GeForce RTX 4090",)
    assert [runtime.engine for runtime in best.usable] == ["tensorrt"]
    for torch, first in (("2.13.0+cpu", "x86-avx512-vnni-bf16"), ("2.13.0+cu130", "rtx-4090"), ("2.13.0", "rtx-4090")):
        assert match_host(machine, installed={**BOTH, "torch": torch})[0].profile.id == first


def test_a_gpu_of_a_similar_name_is_another_gpu() -> None:
    for name in ("NVIDIA GeForce RTX 3060 Ti", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 PCIe"):
        machine = replace(host("haswell", "x86_64"), gpus=(name,))
        assert [match.profile.id for match in match_host(machine, installed=BOTH)] == ["x86-avx2"]


def test_match_tells_native_from_emulated_for_each_runtime() -> None:
    best = match_host(host("zen4", "x86_64"), installed={"openvino": "2024.1.0", "onnxruntime": "1.32.0"})[0]
    openvino, ort, litert, torch = best.runtimes
    assert (openvino.engine, openvino.version, openvino.in_range) == ("openvino", "2024.1.0", False)
    assert openvino.native == ("w8a8", "bf16", "fp32")
    assert (ort.in_range, ort.native) == (True, ("w8a8", "fp32"))
    assert "w4a8" in ort.emulated
    assert (litert.engine, litert.version, litert.native) == ("litert", None, ("w8a8", "fp32"))
    assert (torch.engine, torch.native) == ("torch", ("w8a8", "bf16", "fp32"))
    assert [runtime.engine for runtime in best.usable] == ["onnxruntime"]
    assert "avx512_vnni" in best.reasons[0]


def test_this_machine_is_described() -> None:
    here = detect_host()
    assert here.cores >= 1
    assert here.machine == here.machine.lower()
    if here.system == "Linux":
        assert here.memory_gb is not None
        assert 0.1 < here.memory_gb < 100_000


def test_installed_runtimes_are_those_of_the_package_metadata() -> None:
    found = installed_runtimes()
    assert found["onnxruntime"] == version("onnxruntime")
    assert found["edgetpu"] is None
    assert set(found) >= {"openvino", "tensorrt", "tensorrt-rtx", "litert", "ncnn"}


def test_import_is_light() -> None:
    code = (
        "import sys, hw_profiles; print(*sorted({'torch','numpy','onnxruntime','openvino','rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
