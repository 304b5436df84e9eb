"""From the times of an engine to rows of the latency table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from bitwright.foundation.errors import UsageError
from deploy.latency import ComparisonResult
from deploy.profiling.timing import EngineTimes
from hw_profiles.kernel import Kernel
from hw_profiles.latency_table import LatencyRow, NetworkRow, Quantiles


@dataclass(frozen=True)
class Circumstances:
    """Where rows are measured."""

    profile: str
    runtime: str
    runtime_version: str
    threads: int
    fingerprint: str


def network_row(
    times: EngineTimes, where: Circumstances, network: str, plan: str, input_shape: tuple[int, ...]
) -> NetworkRow:
    """The row of a whole network."""
    return NetworkRow(
        profile=where.profile,
        runtime=where.runtime,
        runtime_version=where.runtime_version,
        threads=where.threads,
        fingerprint=where.fingerprint,
        ms=Quantiles.of(times.whole_ms),
        n=len(times.whole_ms),
        source=_source(network, plan, input_shape),
        created=_now(),
        noisy=times.noisy,
        network=network,
        plan=plan,
        input_shape=input_shape,
        kernels=times.kernels,
        kernel_ms=tuple(round(ms, 5) for ms in times.kernel_ms),
        peak_rss_bytes=times.peak_rss_bytes,
    )


def timed_row(timed: ComparisonResult, arm: str, network: str, plan: str) -> NetworkRow:
    """The row of an engine called `arm` that was timed as a whole, here or on another machine.

    UsageError for times of an emulated processor, which say nothing of a device.
    """
    if timed.environment.emulator is not None:
        raise UsageError(
            f"measured under emulation ({timed.environment.emulator}): such times tell nothing of a device, and enter "
            "no latency table"
        )
    found = timed.measurement(arm)
    return NetworkRow(
        profile=found.spec.profile,
        runtime=found.spec.runtime.value,
        runtime_version=found.spec.runtime_version,
        threads=found.threads,
        fingerprint=found.environment_fingerprint,
        ms=Quantiles.of(found.samples_ms),
        n=len(found.samples_ms),
        source=_source(network, plan, found.input_shape),
        created=_now(),
        noisy=found.noisy,
        network=network,
        plan=plan,
        input_shape=found.input_shape,
        kernels=(),
        kernel_ms=(),
        peak_rss_bytes=found.peak_rss_bytes,
    )


def kernel_rows(
    times: EngineTimes, where: Circumstances, network: str, plan: str, input_shape: tuple[int, ...]
) -> Iterator[LatencyRow]:
    """One row for each distinct kernel; calls of equal kernels are pooled, because all of them were seen."""
    pooled: dict[str, tuple[Kernel, list[float], int]] = {}
    for kernel, blocks in zip(times.kernels, times.blocks_ms, strict=True):
        first, samples, calls = pooled.get(kernel.key, (kernel, [], 0))
        pooled[kernel.key] = (first, [*samples, *blocks], calls + 1)
    for kernel, samples, calls in pooled.values():
        yield LatencyRow(
            profile=where.profile,
            runtime=where.runtime,
            runtime_version=where.runtime_version,
            threads=where.threads,
            fingerprint=where.fingerprint,
            kernel=kernel.model_copy(update={"layers": ()}),
            ms=Quantiles.of(samples),
            n=calls * times.runs,
            source=_source(network, plan, input_shape),
            created=_now(),
            noisy=times.noisy,
        )


def _source(network: str, plan: str, input_shape: tuple[int, ...]) -> str:
    return f"{network} {plan} {'x'.join(map(str, input_shape))}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
