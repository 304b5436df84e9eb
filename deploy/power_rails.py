"""The energy of engines from the power rails that a machine exposes, as plain values. Needs nothing but Python.

`root` is where `sys` is found. Rails: the energy counters of powercap (RAPL), the energy, power, or voltage and current
of the sensors in hwmon (the INA chips of boards among them), and GPUs that NVML tells of.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import track
from deploy.machine import read_text
from deploy.nvidia_power import gpu_readers

EVERY_S = 0.01
"""Sensors that tell power are read this often; most renew their value more slowly."""
_MICRO, _MILLI = 1e-6, 1e-3


@dataclass(frozen=True)
class Rail:
    """`read` gives joules since some moment where `counts`, else watts; at `wraps` joules a counter begins anew."""

    name: str
    read: Callable[[], float]
    counts: bool
    wraps: float | None = None


def find_rails(root: Path = Path("/")) -> list[Rail]:
    """The rails that can be read here and now, each name once."""
    found: dict[str, Rail] = {}
    gpus = [Rail(*told) for told in gpu_readers()] if root == Path("/") else []
    for rail in (*_powercap(root / "sys/class/powercap"), *_hwmon(root / "sys/class/hwmon"), *gpus):
        with suppress(OSError, ValueError):
            rail.read()
            found.setdefault(rail.name, rail)
    return list(found.values())


def require_rails(root: Path = Path("/")) -> list[Rail]:
    """As `find_rails`; UsageError where there is none."""
    rails = find_rails(root)
    if rails:
        return rails
    hidden = any((root / "sys/class/powercap").glob("*/energy_uj"))
    why = "may be read by root only" if hidden else "are not there: no energy counter, power sensor or telling GPU"
    raise UsageError(f"energy cannot be measured on this machine: its power rails {why}; leave --energy out")


def _powercap(folder: Path) -> Iterator[Rail]:
    """Zones, such as a package, and what is told apart in them, such as its memory."""
    for counter in sorted(folder.glob("*/energy_uj")):
        zone = counter.parent
        name = read_text(zone / "name") or zone.name
        if zone.name.count(":") > 1:
            above = read_text(folder / zone.name.rpartition(":")[0] / "name")
            name = f"{above or zone.name.rpartition(':')[0]}/{name}"
        limit = read_text(zone / "max_energy_range_uj")
        yield Rail(name, _scaled(counter, _MICRO), True, int(limit) * _MICRO if limit and limit.isdigit() else None)


def _hwmon(folder: Path) -> Iterator[Rail]:
    for chip in sorted(folder.glob("*")):
        of = read_text(chip / "name") or chip.name
        for file in sorted(chip.glob("energy*_input")):
            yield Rail(_label(chip, of, file.name.removesuffix("_input")), _scaled(file, _MICRO), True)
        powers = sorted(chip.glob("power*_input")) or sorted(chip.glob("power*_average"))
        for file in powers:
            yield Rail(_label(chip, of, file.name.rpartition("_")[0]), _scaled(file, _MICRO), False)
        if powers:
            continue
        for file in sorted(chip.glob("curr*_input")):
            number = file.name.removeprefix("curr").removesuffix("_input")
            volts, amperes = _scaled(chip / f"in{number}_input", _MILLI), _scaled(file, _MILLI)
            yield Rail(_label(chip, of, f"in{number}"), _product(volts, amperes), False)


def _label(chip: Path, of: str, channel: str) -> str:
    return f"{of} {read_text(chip / f'{channel}_label') or channel}"


def _product(volts: Callable[[], float], amperes: Callable[[], float]) -> Callable[[], float]:
    return lambda: volts() * amperes()


def _scaled(path: Path, unit: float) -> Callable[[], float]:
    return lambda: int(path.read_text(encoding="ascii")) * unit


def _read(rail: Rail, before: float) -> float:
    """What the rail tells now; what it told `before` where a chip on a slow bus does not answer this time."""
    try:
        return rail.read()
    except (OSError, ValueError):
        return before


@dataclass
class EnergyMeter:
    """Joules of each rail while a block runs, and its seconds."""

    rails: list[Rail]
    joules: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._integrate, daemon=True, name="power rails")
        self.joules = {rail.name: 0.0 for rail in self.rails}
        self._began = time.perf_counter()
        self._last = (self._began, [rail.read() for rail in self.rails])
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._add()
        self.seconds = self._last[0] - self._began

    def _integrate(self) -> None:
        while not self._done.wait(EVERY_S):
            self._add()

    def _add(self) -> None:
        """Counters by their difference, power by the trapezoid between two readings."""
        then, before = self._last
        now, after = time.perf_counter(), [*map(_read, self.rails, before)]
        for rail, first, last in zip(self.rails, before, after, strict=True):
            if not rail.counts:
                self.joules[rail.name] += (first + last) / 2 * (now - then)
            else:
                self.joules[rail.name] += last - first + (rail.wraps or 0.0 if last < first else 0.0)
        self._last = (now, after)


def energy_pass(rails: list[Rail], run_blocks: Mapping[str, Callable[[], int]], seconds: float) -> dict[str, Any]:
    """The fields of `Energy`: the idle machine, each engine at work for `seconds`, and the idle machine again.

    `run_blocks`: by engine, what runs a block of it and tells of how many runs it was.
    """
    idle = EnergyMeter(rails)
    watts: list[dict[str, float]] = []
    arms: dict[str, Any] = {}
    steps = ["", *run_blocks, ""]
    for name in track(steps, "measuring energy, engine by engine"):
        if not name:
            with idle:
                time.sleep(seconds / 2)
            watts.append({rail: joules / idle.seconds for rail, joules in idle.joules.items()})
            continue
        run_blocks[name]()
        runs, ends = 0, time.perf_counter() + seconds
        with EnergyMeter(rails) as meter:
            while time.perf_counter() < ends:
                runs += run_blocks[name]()
        arms[name] = {"runs": runs, "seconds": meter.seconds, "joules": meter.joules}
    return {"idle_watts": {r.name: sum(w[r.name] for w in watts) / len(watts) for r in rails}, "arms": arms}
