"""What a machine says of itself, as plain values. Needs nothing but Python, so that it also runs on a device; GPUs are
told of where NVML is there.

`root` is where `proc` and `sys` are found; a value that the system does not tell is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from deploy.nvidia_gpus import read_gpus

LIBRARIES = (
    "bitwright", "torch", "numpy", "onnx", "onnxruntime", "openvino", "ai-edge-litert", "tensorrt-rtx", "tensorrt",
)  # fmt: skip
_AVX = ("fma", "f16c", "avx", "avx2", "avx_vnni", "avx_vnni_int8")
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16")
_AMX = ("amx_tile", "amx_int8", "amx_bf16", "amx_fp16")
_ARM = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16", "sme")
_FLAGS = frozenset(_AVX + _AVX512 + _AMX + _ARM)
CPU = Path("sys/devices/system/cpu")
_PASSING = frozenset({"load_average", "clock_mhz", "command"})
_GIB = 1 << 30


def read_machine(root: Path = Path("/")) -> dict[str, Any]:
    """The fields of `Environment`."""
    lines = _cpu_lines(root)
    flags = set(lines.get("flags", lines.get("Features", "")).split())
    return {
        "cpu_model": lines.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cpu_flags": sorted(flags & _FLAGS),
        "virtual_machine": "hypervisor" in flags if "flags" in lines else None,
        "emulator": emulator(root),
        "logical_cores": os.cpu_count() or 1,
        "physical_cores": _physical_cores(root),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "core_kinds": core_kinds(root),
        "governor": _governor(root),
        "boost": _boost(root),
        "smt": _switch(root / CPU / "smt/active"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": _library_versions(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "clock_mhz": clock_mhz(root),
        "command": list(sys.argv),
        "gpus": read_gpus() if root == Path("/") else [],
    }


def decisive(machine: Mapping[str, Any]) -> dict[str, Any]:
    """What of `read_machine` decides speed, as it is compared: without load, clock and command.

    GPUs are part of it whatever was measured, so that another driver or power limit of one makes another machine for
    times of the processor as well.
    """
    values = {name: value for name, value in machine.items() if name not in _PASSING}
    # A kernel reserves a little more or less memory at each boot.
    values["memory_bytes"] = f"{round(machine['memory_bytes'] / _GIB)} GiB"
    # Records may tell of more libraries than those that decide now.
    values["libraries"] = {name: version for name, version in machine["libraries"].items() if name in LIBRARIES}
    for name in ("core_kinds", "emulator", "gpus"):
        if not values.get(name):
            # Records made before these were read keep their fingerprint.
            values.pop(name, None)
    return values


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """One phrase for each decisive difference between two machines, as 'name: a's value, b's value'."""
    left, right = decisive(a), decisive(b)
    names = dict.fromkeys([*left, *right])
    return tuple(f"{n}: {left.get(n)}, {right.get(n)}" for n in names if left.get(n) != right.get(n))


def emulator(root: Path = Path("/")) -> str | None:
    """What translates this program's instructions for another processor, such as qemu-aarch64; None where none is seen.

    An emulator in user space keeps its own name as that of the thread, which the kernel cuts to 15 characters.
    """
    name = read_text(root / "proc/self/comm") or ""
    if name.startswith("qemu-"):
        return f"qemu-{platform.machine()}"
    if platform.machine() != "x86_64" and "vendor_id" in _cpu_lines(root):
        return "unknown"
    return None


def clock_mhz(root: Path = Path("/")) -> float | None:
    """Mean clock of all cores now, in MHz; None where it cannot be read."""
    files = sorted((root / CPU).glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    texts = [text for text in map(read_text, files) if text is not None]
    values = [int(text) / 1000.0 for text in texts]
    if not values:
        lines = (read_text(root / "proc/cpuinfo") or "").splitlines()
        values = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(values) / len(values) if values else None


def core_kinds(root: Path = Path("/")) -> dict[str, list[int]]:
    """The cores of each kind where there are several (big.LITTLE, hybrid x86); empty where all are alike.

    Kinds go by the kernel's own names: `cpu_core` and `cpu_atom` on x86, `implementer/part` on Arm.
    """
    hybrid = {name: read_text(root / "sys/devices" / name / "cpus") for name in ("cpu_core", "cpu_atom")}
    kinds = {name: _core_list(text) for name, text in hybrid.items() if text}
    if not kinds:
        for block in (read_text(root / "proc/cpuinfo") or "").split("\n\n"):
            values = _pairs(block)
            if "CPU part" in values and values.get("processor", "").isdigit():
                name = f"{values.get('CPU implementer', '?')}/{values['CPU part']}"
                kinds.setdefault(name, []).append(int(values["processor"]))
    return kinds if len(kinds) > 1 else {}


def read_text(path: Path) -> str | None:
    """The text of a small system file without the white space around it; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _pairs(block: str) -> dict[str, str]:
    """The `name : value` lines of one processor."""
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cpu_lines(root: Path) -> dict[str, str]:
    return _pairs((read_text(root / "proc/cpuinfo") or "").split("\n\n", 1)[0])


def _core_list(text: str) -> list[int]:
    """`0-3,8` as numbers."""
    ranges = (part.partition("-") for part in text.split(",") if part)
    return [core for low, _, high in ranges for core in range(int(low), int(high or low) + 1)]


def _physical_cores(root: Path) -> int | None:
    files = (root / CPU).glob("cpu[0-9]*/topology/thread_siblings_list")
    return len({text for text in map(read_text, files) if text}) or None


def _governor(root: Path) -> str | None:
    files = sorted((root / CPU).glob("cpu[0-9]*/cpufreq/scaling_governor"))
    names = sorted({text for text in map(read_text, files) if text})
    return ", ".join(names) or None


def _switch(path: Path) -> bool | None:
    return {"0": False, "1": True}.get(read_text(path) or "")


def _boost(root: Path) -> bool | None:
    boost = _switch(root / CPU / "cpufreq/boost")
    if boost is not None:
        return boost
    no_turbo = _switch(root / CPU / "intel_pstate/no_turbo")
    return None if no_turbo is None else not no_turbo


def _library_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
