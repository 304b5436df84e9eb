"""Parsers of what operating systems say about the CPU. Pure functions of text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse N1",
    ("0x41", "0xd40"): "Neoverse V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse N2",
    ("0x41", "0xd4f"): "Neoverse V2",
}
_ARM_VENDORS = {"0x41": "Arm", "0x4e": "NVIDIA", "0x51": "Qualcomm", "0x61": "Apple", "0xc0": "Ampere"}
# What macOS calls a feature, and what Linux calls it.
_APPLE_FEATURES = {
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
}


@dataclass(frozen=True)
class CpuInfo:
    """What is known of a CPU; `flags` are instruction-set flags as Linux names them, held by every processor."""

    model: str
    vendor: str
    processors: int
    flags: frozenset[str]
    board: str | None = None


def parse_cpuinfo(text: str) -> CpuInfo:
    """Parse Linux /proc/cpuinfo of x86 or aarch64. Flags that only some processors have are left out."""
    fields: dict[str, str] = {}
    flag_sets: list[frozenset[str]] = []
    parts: list[str] = []
    processors = 0
    for line in text.splitlines():
        key, separator, value = (piece.strip() for piece in line.partition(":"))
        if not separator:
            continue
        if key == "processor":
            processors += 1
        elif key in {"flags", "Features"}:
            flag_sets.append(frozenset(value.split()))
        elif key == "CPU part":
            parts.append(value)
        fields.setdefault(key, value)
    implementer = fields.get("CPU implementer", "")
    arm = " + ".join(dict.fromkeys(_ARM_PARTS.get((implementer, part), f"Arm part {part}") for part in parts))
    return CpuInfo(
        model=fields.get("model name") or arm or "unknown",
        vendor=fields.get("vendor_id") or _ARM_VENDORS.get(implementer, "unknown"),
        processors=processors,
        flags=frozenset.intersection(*flag_sets) if flag_sets else frozenset(),
        board=fields.get("Model"),
    )


def parse_sysctl(text: str) -> CpuInfo:
    """Parse the `name: value` lines of macOS sysctl for hw and machdep.cpu."""
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    model = values.get("machdep.cpu.brand_string", "unknown")
    count = values.get("hw.logicalcpu", "0")
    return CpuInfo(
        model=model,
        vendor="Apple" if model.startswith("Apple") else values.get("machdep.cpu.vendor", "unknown"),
        processors=int(count) if count.isdigit() else 0,
        flags=frozenset(flag for name, flag in _APPLE_FEATURES.items() if values.get(name) == "1"),
        board=values.get("hw.model"),
    )


def parse_meminfo_gb(text: str) -> float | None:
    """Total memory in GB (1e9 bytes) from Linux /proc/meminfo."""
    found = re.search(r"^MemTotal:\s+(\d+)\s+kB", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e9 if found else None


def parse_sysctl_memory_gb(text: str) -> float | None:
    """Total memory in GB (1e9 bytes) from macOS sysctl hw.memsize."""
    found = re.search(r"^hw\.memsize:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) / 1e9 if found else None


def parse_gpu_names(text: str) -> tuple[str, ...]:
    """Names from `nvidia-smi --query-gpu=name --format=csv,noheader`, one a line."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())
