"""How warm a machine is and whether it holds its clocks back, as plain values. Needs nothing but Python.

`root` is where `sys` is found; a value that the system does not tell is None, never a guess.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.machine import CPU, clock_mhz, read_text
from deploy.nvidia_gpus import read_gpu_heat

_CPU_SENSORS = frozenset({"coretemp", "k10temp", "cpu_thermal", "zenpower"})
_PI_FIRMWARE = Path("sys/devices/platform/soc/soc:firmware/get_throttled")
_PI_NOW = 0xF


def read_heat(root: Path = Path("/")) -> dict[str, Any]:
    """The fields of `Heat`."""
    return {
        "clock_mhz": clock_mhz(root),
        "temperature_c": _temperature(root),
        "throttle_events": _throttle_events(root),
        "held_back": _held_back(root),
        "gpus": read_gpu_heat() if root == Path("/") else [],
    }


def _temperature(root: Path) -> float | None:
    """The warmest sensor of the processor, in degrees Celsius; of any thermal zone where none says that it is one."""
    zones = [(folder, folder / "type", [folder / "temp"]) for folder in (root / "sys/class/thermal").glob("*_zone*")]
    zones += [
        (folder, folder / "name", sorted(folder.glob("temp*_input"))) for folder in (root / "sys/class/hwmon").glob("*")
    ]
    found: dict[bool, list[float]] = {True: [], False: []}
    for _, name, files in zones:
        kind = (read_text(name) or "").lower()
        mine = kind in _CPU_SENSORS or "cpu" in kind or "pkg" in kind or "soc" in kind
        found[mine] += [value / 1000.0 for value in map(_number, files) if value is not None]
    return max(found[True] or found[False], default=None)


def _throttle_events(root: Path) -> int | None:
    """How often the processor has throttled since the machine started, all cores and packages together (x86)."""
    counts = [
        count
        for name in ("core_throttle_count", "package_throttle_count")
        for count in map(_number, (root / CPU).glob(f"cpu[0-9]*/thermal_throttle/{name}"))
        if count is not None
    ]
    return sum(counts) if counts else None


def _held_back(root: Path) -> bool | None:
    """Whether the clock is held below what the processor can do, now.

    By a cooling device at work on the processor, by the firmware of a Raspberry Pi (bits 0 to 3: undervoltage, capped,
    throttled, soft limit), or by a clock limit below the highest clock.
    """
    signs: list[bool] = []
    for folder in (root / "sys/class/thermal").glob("cooling_device*"):
        kind, state = (read_text(folder / "type") or "").lower(), _number(folder / "cur_state")
        if state is not None and ("cpu" in kind or kind == "processor"):
            signs.append(state > 0)
    firmware = _number(root / _PI_FIRMWARE, 16)
    if firmware is not None:
        signs.append(bool(firmware & _PI_NOW))
    for folder in (root / CPU).glob("cpu[0-9]*/cpufreq"):
        limit, highest = _number(folder / "scaling_max_freq"), _number(folder / "cpuinfo_max_freq")
        if limit is not None and highest is not None:
            signs.append(limit < highest)
    return any(signs) if signs else None


def _number(path: Path, base: int = 10) -> int | None:
    text = read_text(path)
    try:
        return None if text is None else int(text, base)
    except ValueError:
        return None
