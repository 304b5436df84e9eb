"""Host: the machine that this process runs on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from hw_profiles.architecture import architecture_of
from hw_profiles.cpuinfo import (
    CpuInfo,
    parse_cpuinfo,
    parse_gpu_names,
    parse_meminfo_gb,
    parse_sysctl,
    parse_sysctl_memory_gb,
)

_COMMAND_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Host:
    """A machine. `cores` are the logical processors that this process may use; None or empty where not known."""

    system: str
    machine: str
    cpu_model: str
    vendor: str
    cores: int
    flags: frozenset[str]
    memory_gb: float | None = None
    board: str | None = None
    gpus: tuple[str, ...] = ()


def host_from_cpu(cpu: CpuInfo, machine: str, *, system: str = "Linux", cores: int | None = None) -> Host:
    """A host of which only the CPU is known."""
    return Host(
        system=system,
        machine=architecture_of(machine),
        cpu_model=cpu.model,
        vendor=cpu.vendor,
        cores=cores or max(1, cpu.processors),
        flags=cpu.flags,
        board=cpu.board,
    )


def detect_host() -> Host:
    """This machine, from /proc and the device tree on Linux, sysctl on macOS, and nvidia-smi where it exists."""
    system = platform.system()
    if system == "Darwin":
        text = _output(["sysctl", "hw", "machdep.cpu"])
        cpu, memory_gb = parse_sysctl(text), parse_sysctl_memory_gb(text)
    else:
        cpu = parse_cpuinfo(_text(Path("/proc/cpuinfo")))
        memory_gb = parse_meminfo_gb(_text(Path("/proc/meminfo")))
    known = host_from_cpu(cpu, platform.machine(), system=system, cores=_usable_cores())
    return replace(
        known,
        memory_gb=memory_gb,
        board=_text(Path("/proc/device-tree/model")).strip("\0\n ") or known.board,
        gpus=parse_gpu_names(_output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])),
    )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(arguments: list[str]) -> str:
    """Standard output of a command; empty where it is absent, fails or hangs, since what it says is only a hint."""
    program = shutil.which(arguments[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *arguments[1:]], capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
