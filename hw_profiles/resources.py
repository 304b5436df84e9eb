"""What a device has: compute, memory, power, limits, costs. A number that is unknown is None, never zero.

Units are in the names. TOPS and GOP/s count two operations per multiply-accumulate; GB is 1e9 bytes, KiB is 1024.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from hw_profiles.model import (
    Count,
    Gb,
    GbPerSecond,
    GopsPerCore,
    Kib,
    Mhz,
    Microseconds,
    Nanoseconds,
    Part,
    Tops,
    Watt,
)
from hw_profiles.terms import DType


class Clock(Part):
    """Clock range in MHz."""

    base: Mhz | None = None
    max: Mhz | None = None


class Peak(Part):
    """Peak throughput of the whole device in TOPS, dense and with 2:4 structured sparsity."""

    dense: Tops | None = None
    sparse_2_4: Tops | None = None


class Compute(Part):
    """Arithmetic throughput: device-wide for accelerators, per core for CPUs."""

    units: dict[str, Count | None] = Field(default_factory=dict)
    clock_mhz: Clock = Clock()
    peak_tops: dict[DType, Peak] = Field(default_factory=dict)
    peak_gops_per_core: dict[DType, GopsPerCore | None] = Field(default_factory=dict)
    ops_per_cycle_per_core: dict[DType, Count | None] = Field(default_factory=dict)


class Memory(Part):
    """Capacities and bandwidths; `transfer_gb_s` is the link between the host and the device."""

    dram_gb: Gb | None = None
    dram_gb_s: GbPerSecond | None = None
    dram_gb_s_per_core: GbPerSecond | None = None
    l2_kib: Kib | None = None
    l2_kib_per_core: Kib | None = None
    l3_kib: Kib | None = None
    sram_kib: Kib | None = None
    sram_gb_s: GbPerSecond | None = None
    flash_gb_s: GbPerSecond | None = None
    transfer_gb_s: GbPerSecond | None = None


class Power(Part):
    """Power modes in watt."""

    modes_w: tuple[Watt, ...] = ()
    default_w: Watt | None = None


class Limits(Part):
    """What shapes the device takes.

    `channel_multiple` is what an export pads widths to; `channel_step` is what a search should choose widths by.
    """

    channel_multiple: dict[DType, Count | None] = Field(default_factory=dict)
    channel_step: dict[DType, Count | None] = Field(default_factory=dict)
    kernel_max: Count | None = None
    stride_max: Count | None = None
    rank_max: Count | None = None


class Cost(Part):
    """Measured costs: a table of kernels, the price of changing precision, the price of a launch."""

    lut: str | None = None
    boundary_ns_per_element: dict[str, Nanoseconds | None] = Field(default_factory=dict)
    launch_us: Microseconds | None = None


class Via(StrEnum):
    """How a device is reached for a measurement."""

    LOCAL = "local"
    SSH = "ssh"
    ADB = "adb"

    @property
    def address(self) -> str | None:
        """What `--on` takes for such a device, its user's words in capitals; None where it is this machine."""
        return {Via.SSH: "ssh://USER@HOST", Via.ADB: "adb:SERIAL"}.get(self)


class ClockPolicy(StrEnum):
    """Whether the clock is fixed while measuring."""

    DEFAULT = "default"
    LOCKED = "locked"


class Measure(Part):
    """How to measure on the device. `setup` commands are argument lists; nothing goes through a shell."""

    via: Via | None = None
    threads: Count | None = None
    affinity: tuple[int, ...] | None = None
    setup: tuple[tuple[str, ...], ...] = ()
    clock_policy: ClockPolicy | None = None
