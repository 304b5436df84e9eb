"""The machine and software that a number was measured on, with a fingerprint that tells two of them apart."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation import progress

LIBRARIES = ("bitwright", "torch", "numpy", "onnx", "onnxruntime", "openvino")
_AVX = ("fma", "f16c", "avx", "avx2", "avx_vnni", "avx_vnni_int8")
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16")
_AMX = ("amx_tile", "amx_int8", "amx_bf16", "amx_fp16")
_ARM = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16", "sme")
_FLAGS = frozenset(_AVX + _AVX512 + _AMX + _ARM)
_UNHASHED = frozenset({"load_average", "clock_mhz", "command"})
_CPU = Path("sys/devices/system/cpu")
_GIB = 1 << 30


class Environment(BaseModel):
    """Where a measurement was taken; a value that the system does not tell is None, never a guess."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_model: str
    architecture: str
    cpu_flags: tuple[str, ...] = Field(description="the instruction sets that decide which kernels a runtime picks")
    virtual_machine: bool | None
    logical_cores: int
    physical_cores: int | None
    usable_cores: int = Field(description="logical cores that this process may run on")
    governor: str | None
    boost: bool | None
    smt: bool | None
    memory_bytes: int
    os: str
    kernel: str
    python: str
    libraries: dict[str, str]
    load_average: tuple[float, float, float] | None
    clock_mhz: float | None = Field(description="mean clock of the cores when recorded")
    command: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 over all that decides speed; load, clock and command are left out."""
        text = json.dumps(_hashed(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def record(cls, root: Path = Path("/")) -> Environment:
        """Read this machine; `root` is where `proc` and `sys` are found."""
        lines = _cpu_lines(root)
        flags = set(lines.get("flags", lines.get("Features", "")).split())
        return cls(
            cpu_model=lines.get("model name") or platform.processor() or platform.machine(),
            architecture=platform.machine(),
            cpu_flags=tuple(sorted(flags & _FLAGS)),
            virtual_machine="hypervisor" in flags if "flags" in lines else None,
            logical_cores=os.cpu_count() or 1,
            physical_cores=psutil.cpu_count(logical=False),
            usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            governor=_governor(root),
            boost=_boost(root),
            smt=_switch(root / _CPU / "smt/active"),
            memory_bytes=psutil.virtual_memory().total,
            os=platform.system(),
            kernel=platform.release(),
            python=platform.python_version(),
            libraries=_library_versions(),
            load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
            clock_mhz=clock_mhz(root),
            command=tuple(sys.argv),
        )


def machine_differences(a: Environment, b: Environment) -> tuple[str, ...]:
    """One phrase for each difference that could explain a difference in speed, as 'name: a's value, b's value'."""
    left, right = _hashed(a), _hashed(b)
    return tuple(f"{name}: {left[name]}, {right[name]}" for name in left if left[name] != right[name])


def same_machine(a: Environment, b: Environment) -> bool:
    """Whether times taken in `a` and `b` may be compared; where not, the listener is told what differs."""
    differences = machine_differences(a, b)
    if differences:
        progress.note(f"warning: times from two environments do not compare ({'; '.join(differences)})")
    return not differences


def clock_mhz(root: Path = Path("/")) -> float | None:
    """Mean clock of all cores now, in MHz; None where it cannot be read."""
    files = sorted((root / _CPU).glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    texts = [text for text in map(_read, files) if text is not None]
    values = [int(text) / 1000.0 for text in texts]
    if not values:
        lines = (_read(root / "proc/cpuinfo") or "").splitlines()
        values = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(values) / len(values) if values else None


def _hashed(environment: Environment) -> dict[str, object]:
    values: dict[str, object] = environment.model_dump(mode="json", exclude=set(_UNHASHED))
    # A kernel reserves a little more or less memory at each boot.
    values["memory_bytes"] = f"{round(environment.memory_bytes / _GIB)} GiB"
    return values


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _cpu_lines(root: Path) -> dict[str, str]:
    """The `name : value` lines of the first processor in /proc/cpuinfo."""
    first = (_read(root / "proc/cpuinfo") or "").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _governor(root: Path) -> str | None:
    files = sorted((root / _CPU).glob("cpu[0-9]*/cpufreq/scaling_governor"))
    names = sorted({text for text in map(_read, files) if text})
    return ", ".join(names) or None


def _switch(path: Path) -> bool | None:
    return {"0": False, "1": True}.get(_read(path) or "")


def _boost(root: Path) -> bool | None:
    boost = _switch(root / _CPU / "cpufreq/boost")
    if boost is not None:
        return boost
    no_turbo = _switch(root / _CPU / "intel_pstate/no_turbo")
    return None if no_turbo is None else not no_turbo


def _library_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
