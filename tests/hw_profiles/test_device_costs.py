"""Arithmetic of BitOps, bytes and the roofline, with its units."""

from __future__ import annotations

import pytest

from hw_profiles import Bound, Status, bitops, bytes_moved, estimate_ms, load_profile
from hw_profiles.roofline import bandwidth, peak_rate
from hw_profiles.terms import DType

MEASURED_ON_ZEN4 = "x86-avx512-vnni-bf16"


def test_bitops_definition() -> None:
    assert bitops(1000, 8, 8) == 64_000
    assert bitops(1000, 32, 32) == 1_024_000
    assert bitops(1000, 4, 8, kept_fraction=0.5) == 16_000
    with pytest.raises(ValueError, match="kept fraction 2"):
        bitops(1000, 8, 8, 2)


def test_bytes_of_a_convolution() -> None:
    # 3x3 convolution 64 -> 64 on 128 x 128, int8 in and out
    pixels = 64 * 128 * 128
    assert bytes_moved(64 * 64 * 9, pixels, pixels, 8, 8) == 36_864 + 2 * 1_048_576
    assert bytes_moved(64 * 64 * 9, pixels, pixels, 4, 8, 32) == 18_432 + 1_048_576 + 4 * 1_048_576
    assert bytes_moved(64 * 64 * 9, 0, 0, 8, 8, kept_fraction=0.5) == 18_432
    assert bytes_moved(3, 0, 0, 4, 8) == 2
    with pytest.raises(ValueError, match="cannot be negative"):
        bytes_moved(-1, 0, 0, 8, 8)


def test_one_core_of_the_measured_cpu() -> None:
    profile = load_profile(MEASURED_ON_ZEN4)
    macs = 117_000_000 // 2
    fp32 = estimate_ms(macs, 0, DType.FP32, profile, cores=1)
    int8 = estimate_ms(macs, 0, "int8", profile, cores=1)
    bf16 = estimate_ms(macs, 0, "bf16", profile, cores=1)
    assert fp32 is not None
    assert int8 is not None
    assert bf16 is not None
    assert fp32.ms == pytest.approx(1.0)
    assert fp32.ms / int8.ms == pytest.approx(4.0, abs=0.01)
    assert fp32.ms / bf16.ms == pytest.approx(2.0, abs=0.01)
    assert (fp32.label, fp32.status, fp32.bound) == ("estimated", Status.MEASURED, Bound.COMPUTE)
    assert fp32.launch_ms is None


def test_memory_bound_layer_takes_the_time_of_its_bytes() -> None:
    profile = load_profile(MEASURED_ON_ZEN4)
    one = estimate_ms(1000, 25_000_000, "int8", profile, cores=1)
    two = estimate_ms(1000, 25_000_000, "int8", profile, cores=2)
    assert one is not None
    assert two is not None
    assert one.ms == pytest.approx(1.0)
    assert one.bound is Bound.MEMORY
    assert two.ms == pytest.approx(0.5)


def test_cores_multiply_per_core_peaks_but_not_device_peaks_nor_the_memory() -> None:
    pi5, a100 = load_profile("raspberry-pi-5"), load_profile("a100-sxm-80gb")
    four = peak_rate(pi5, DType.INT8, 4)
    assert four is not None
    assert four.per_second == pytest.approx(614.4e9)
    assert bandwidth(pi5, 4) == bandwidth(pi5, 1)
    assert peak_rate(a100, DType.INT8, 4) == peak_rate(a100, DType.INT8, 1)


def test_tops_count_two_operations_per_mac() -> None:
    estimate = estimate_ms(312 * 10**9, 0, "int8", load_profile("a100-sxm-80gb"))
    assert estimate is not None
    assert estimate.ms == pytest.approx(1.0)
    assert estimate.status is Status.PUBLISHED


@pytest.mark.parametrize(
    ("name", "executes_as"),
    [
        ("hexagon-htp-v73", "int8"),  # no TOPS published
        ("x86-amx", "int8"),  # inherits no peak from the CPU it extends
        ("rtx-3060", "fp16"),  # peak unknown
        ("coral-edge-tpu", "int8"),  # peak known, bandwidth unknown
        ("x86-avx512-vnni-bf16", "fp16"),  # not a type it executes
    ],
)
def test_unknown_peak_or_bandwidth_gives_no_estimate(name: str, executes_as: str) -> None:
    assert estimate_ms(10**9, 10**6, executes_as, load_profile(name)) is None


def test_status_of_an_estimate_is_that_of_its_weakest_number() -> None:
    estimate = estimate_ms(10**9, 10**6, "int8", load_profile("rtx-3060"))
    assert estimate is not None
    assert estimate.status is Status.UNVERIFIED
    orin = estimate_ms(10**9, 10**6, "int8", load_profile("jetson-orin-nano-8gb"))
    assert orin is not None
    assert orin.status is Status.PUBLISHED


def test_known_launch_cost_is_added() -> None:
    profile = load_profile("jetson-orin-nano-8gb")
    data = profile.model_dump(mode="json", by_alias=True)
    data["cost"]["launch_us"] = 50
    data["provenance"]["cost.launch_us"] = {"source": "test", "status": "measured"}
    with_launch = estimate_ms(10**10, 0, "int8", type(profile).model_validate(data))
    assert with_launch is not None
    assert with_launch.ms == pytest.approx(2 * 10**10 / 20e12 * 1e3 + 0.05)
    assert with_launch.launch_ms == pytest.approx(0.05)


def test_derived_figures_follow_from_the_numbers_beside_them() -> None:
    pi5, ethos, agx = (load_profile(name) for name in ("raspberry-pi-5", "ethos-u55-256", "jetson-agx-orin-64gb"))
    cycles, clock = pi5.compute.ops_per_cycle_per_core[DType.INT8], pi5.compute.clock_mhz.max
    assert cycles is not None
    assert clock is not None
    assert pi5.compute.peak_gops_per_core[DType.INT8] == pytest.approx(cycles * clock / 1e3)
    macs, clock = ethos.compute.units["macs_per_cycle"], ethos.compute.clock_mhz.max
    assert macs is not None
    assert clock is not None
    assert ethos.compute.peak_tops[DType.INT8].dense == pytest.approx(2 * macs * clock * 1e6 / 1e12)
    peak = agx.compute.peak_tops[DType.INT8]
    assert peak.sparse_2_4 == pytest.approx(275 - 105)
    assert peak.dense == pytest.approx(85)
