"""KernelModel: times of single kernels, measured where they were, else by regression, else from peaks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Self

from hw_profiles.kernel import Kernel
from hw_profiles.model import Part
from hw_profiles.predictor.correction import Correction, Method
from hw_profiles.predictor.features import amounts, family, shape
from hw_profiles.predictor.prediction import KernelTime, Source
from hw_profiles.predictor.rates import FLOOR_MS, Rates
from hw_profiles.roofline import bandwidth, peak_rate
from hw_profiles.schema import DeviceProfile
from hw_profiles.terms import DType

_ENOUGH = 8
"""Fewer measured kernels than this give a family rates only."""


class Peaks(Part):
    """A device's peaks as costs, for what was never measured: ms per multiply-accumulate by precision, ms per byte."""

    ms_per_mac: dict[str, float]
    ms_per_byte: float

    @classmethod
    def of(cls, profile: DeviceProfile, threads: int) -> Self | None:
        """From a profile; None where it knows no bandwidth or no peak."""
        stream = bandwidth(profile, threads)
        rates = {kind: peak_rate(profile, kind, threads) for kind in DType}
        known = {str(kind): 2e3 / rate.per_second for kind, rate in rates.items() if rate is not None}
        return None if stream is None or not known else cls(ms_per_mac=known, ms_per_byte=1e3 / stream.per_second)

    def ms(self, kernel: Kernel) -> float:
        """The larger of arithmetic and traffic; a precision without a peak counts as the slowest one."""
        mac = self.ms_per_mac.get(kernel.precision, max(self.ms_per_mac.values()))
        return max(kernel.macs * mac, kernel.bytes * self.ms_per_byte, FLOOR_MS)


class Family(Part):
    """Rates of a family and the correction on top."""

    rates: Rates
    correction: Correction

    def ms(self, kernel: Kernel) -> float:
        """Time of a kernel in ms."""
        return max(FLOOR_MS, self.rates.ms(amounts(kernel)) * self.correction.factor(shape(kernel)))


class KernelModel(Part):
    """`measured`: median ms by kernel key; `families`: regressions by family; `peaks`: the rest."""

    measured: dict[str, float]
    families: dict[str, Family]
    peaks: Peaks | None

    def time(self, kernel: Kernel) -> KernelTime:
        """Time of a kernel with its source; what nothing is known of counts zero ms and is marked as from peaks."""
        exact = self.measured.get(kernel.key)
        if exact is not None:
            return KernelTime(kernel=kernel, ms=exact, source=Source.MEASURED)
        known = self.families.get(family(kernel))
        if known is not None:
            return KernelTime(kernel=kernel, ms=known.ms(kernel), source=Source.INTERPOLATED)
        return KernelTime(
            kernel=kernel, ms=0.0 if self.peaks is None else self.peaks.ms(kernel), source=Source.ROOFLINE
        )

    @classmethod
    def fit(
        cls,
        observed: Iterable[tuple[Kernel, float]],
        peaks: Peaks | None,
        method: Method | Mapping[str, Method] = Method.NEIGHBOURS,
    ) -> Self:
        """From (kernel, ms); of equal kernels the median counts. `method`: for all families, or by family."""
        times: dict[str, list[float]] = {}
        kernels: dict[str, Kernel] = {}
        for kernel, ms in observed:
            times.setdefault(kernel.key, []).append(ms)
            kernels.setdefault(kernel.key, kernel)
        measured = {key: statistics.median(times[key]) for key in sorted(times)}
        members: dict[str, list[str]] = {}
        for key in measured:
            members.setdefault(family(kernels[key]), []).append(key)
        families = {}
        for name, keys in sorted(members.items()):
            wanted = method if isinstance(method, Method) else method.get(name, Method.NONE)
            families[name] = _fit_family([kernels[key] for key in keys], [measured[key] for key in keys], wanted)
        return cls(measured=measured, families=families, peaks=peaks)


def _fit_family(kernels: list[Kernel], ms: list[float], method: Method) -> Family:
    known = [max(time, FLOOR_MS) for time in ms]
    rates = Rates.fit([amounts(kernel) for kernel in kernels], known)
    ratio = [math.log(time / rates.ms(amounts(kernel))) for kernel, time in zip(kernels, known, strict=True)]
    chosen = method if len(kernels) >= _ENOUGH else Method.NONE
    return Family(rates=rates, correction=Correction.fit(chosen, [shape(kernel) for kernel in kernels], ratio, known))
