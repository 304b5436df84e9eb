"""Expected latency of each choice on a device: measured kernels where a table has them, the roofline elsewhere."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from bitwright.foundation.errors import UsageError
from hw_profiles import DeviceProfile, DType, Op, PrecisionRule, bytes_moved, estimate_ms
from hw_profiles.latency_table import LatencyTable
from hw_profiles.roofline import assumed_slowdowns, rule_ms, slowdown
from search.quantnas.assignment import Boundary
from search.quantnas.cost_table import CostTable
from search.quantnas.quantisers import FLOAT_BITS
from workloads.super_resolution.models.searched import ConvSpec, SearchSpace, Site
from workloads.super_resolution.models.searched.attention import coarse_sides, esa_convs
from workloads.super_resolution.models.searched.space import BITS

_CONVOLUTION = "convolution"


@dataclass(frozen=True)
class Where:
    """What latency is asked for: device, runtime, cores, LR size."""

    profile: DeviceProfile
    runtime: str
    cores: int = 1
    height: int = 128
    width: int = 128


@dataclass(frozen=True)
class LatencyCosts:
    """The table with the share of its convolution times that were measured, and what each bit width runs as."""

    table: CostTable
    measured: float
    runs_as: dict[int, str]
    native: dict[int, bool]


def legal_widths(space: SearchSpace, profile: DeviceProfile, runtime: str) -> dict[int, PrecisionRule]:
    """The rule that executes each bit width of the space; UsageError for one that the device has no rule for."""
    found = {}
    for bits in space.all_bits:
        rule = _rule(profile, runtime, bits)
        if rule is None:
            known = ", ".join(sorted({str(w) for w, a in profile.legal_bits(Op.CONV, runtime) if w == a}))
            raise UsageError(
                f"{profile.id} executes no convolution with {bits}-bit weights and activations on {runtime}; "
                f"search widths that it has ({known}) with --bits, or count --cost bitops"
            )
        found[bits] = rule
    return found


def has_width(profile: DeviceProfile, runtime: str, bits: int) -> bool:
    """Whether the device has a rule for convolutions of this width."""
    return _rule(profile, runtime, bits) is not None


def next_wider(space: SearchSpace, profile: DeviceProfile, runtime: str) -> dict[int, PrecisionRule]:
    """The rule that each bit width of the space is executed by, or that of the next wider one where the device has none
    of its own; without entry: a width that nothing on the device is wide enough for.
    """
    tried = {bits: (_rule(profile, runtime, wider) for wider in BITS if wider >= bits) for bits in space.all_bits}
    found = {bits: next((rule for rule in rules if rule is not None), None) for bits, rules in tried.items()}
    return {bits: rule for bits, rule in found.items() if rule is not None}


def native_widths(space: SearchSpace, profile: DeviceProfile, runtime: str) -> tuple[int, ...]:
    """Those bit widths of the space that run at the speed of their own width."""
    rules = {bits: _rule(profile, runtime, bits) for bits in space.bits}
    return tuple(bits for bits, rule in rules.items() if rule is not None and rule.native)


def off_step(space: SearchSpace, profile: DeviceProfile) -> tuple[str, ...]:
    """Layers whose channels are no multiple of the device's step, though a wider one would cost no more time."""
    step = profile.channel_step(DType.INT8) or 1
    ends = {(site.name, site.outputs) for site in space.wiring.sites if site.outputs > 4}
    return tuple(sorted(name for name, outputs in ends if outputs % step))


def latency_costs(space: SearchSpace, where: Where, measured: LatencyTable | None = None) -> LatencyCosts:
    """ms of each operation at each bit width at the LR size of `where`, and of each change of precision.

    A convolution whose kernel a latency table holds has its measured time, times the rule's slowdown where it is
    emulated; others have the roofline's, multiplied by the median ratio of measured to estimated times of that
    precision. UsageError for a width that the device does not
    execute, or a profile without peak or bandwidth.
    """
    rules = legal_widths(space, where.profile, where.runtime)
    fixed_rule = _rule(where.profile, where.runtime, space.fixed_bits)
    if fixed_rule is None:
        raise UsageError(f"{where.profile.id} does not execute the fixed parts of the space at {space.fixed_bits} bits")
    known = _Known(where, measured)
    costs, counted = {}, [0, 0]
    for site in space.wiring.sites:
        rows = []
        for chosen in site.operations:
            cells = [[known.ms(c, site.factor, rules[b]) for c in chosen.convs] for b in site.bits]
            counted[0] += sum(found for row in cells for _, found in row)
            counted[1] += sum(len(row) for row in cells)
            rows.append([sum(ms for ms, _ in row) for row in cells])
        costs[site.name] = torch.tensor(rows, dtype=torch.float64)
    share = counted[0] / max(1, counted[1])
    source = f"{where.profile.id}, {where.runtime}, {where.height}x{where.width}: "
    source += f"{share:.0%} of convolution times measured, the rest estimated by roofline"
    if assumed := assumed_slowdowns((*rules.values(), fixed_rule)):
        source += f"; {assumed}"
    fixed = _fixed_ms(space, known, fixed_rule)
    sites = {site.name: site for site in space.wiring.sites}
    boundaries = tuple(
        Boundary(producer, consumer, _crossing(sites[producer], sites[consumer], where, rules))
        for producer, consumer in space.wiring.edges
        if len({rule.executes_as for rule in rules.values()}) > 1
    )
    table = CostTable("ms", source, space, costs, fixed, boundaries)
    return LatencyCosts(
        table, share, {b: r.executes_as.value for b, r in rules.items()}, {b: r.native for b, r in rules.items()}
    )


class _Known:
    """Times of convolutions, measured or estimated."""

    def __init__(self, where: Where, measured: LatencyTable | None) -> None:
        self.where = where
        self._times: dict[tuple[object, ...], list[float]] = {}
        for row in () if measured is None else measured.kernels:
            kernel = row.kernel
            if row.runtime != where.runtime or row.threads != where.cores or _CONVOLUTION not in kernel.op.lower():
                continue
            if kernel.inputs and kernel.outputs and len(kernel.inputs[0].shape) == 4:
                key = (
                    kernel.precision, kernel.inputs[0].shape[1:], kernel.outputs[0].shape[1:], kernel.window,
                    kernel.groups or 1, kernel.stride or (1, 1),
                )  # fmt: skip
                self._times.setdefault(key, []).append(row.ms.p50)
        self._ratios: dict[DType, float] = {}

    def ms(self, spec: ConvSpec, factor: int, rule: PrecisionRule) -> tuple[float, bool]:
        """Time of a convolution and whether it was measured."""
        sides = (self.where.height * factor, self.where.width * factor)
        return self.at(spec, sides, sides, rule)

    def at(self, spec: ConvSpec, before: tuple[int, int], after: tuple[int, int],
           rule: PrecisionRule) -> tuple[float, bool]:  # fmt: skip
        """The same with its sizes before and after."""
        key = (rule.executes_as.value, (spec.inputs, *before), (spec.outputs, *after), spec.kernel, spec.groups,
               (spec.stride, spec.stride))  # fmt: skip
        # Tables record no dilation; padding follows from the sizes.
        if spec.dilation == 1 and key in self._times:
            return statistics.median(self._times[key]) * slowdown(rule), True
        return self._estimate(spec, before, after, rule) * self._ratio(rule.executes_as), False

    def _estimate(self, spec: ConvSpec, before: tuple[int, int], after: tuple[int, int], rule: PrecisionRule) -> float:
        positions, weights = after[0] * after[1], spec.macs_per_position
        inputs, outputs = spec.inputs * before[0] * before[1], spec.outputs * positions
        profile, cores = self.where.profile, self.where.cores
        found = rule_ms(rule, weights * positions, weights, inputs, outputs, profile, cores)
        return _known(found, rule.executes_as, profile)

    def _ratio(self, executed: DType) -> float:
        """Median of measured over estimated times of all measured convolutions of this precision; 1 without any."""
        if executed not in self._ratios:
            plain = PrecisionRule(id=executed.value, ops=(Op.CONV,), executes_as=executed, native=True)
            ratios = []
            for (precision, inputs, outputs, window, groups, _), times in self._times.items():
                if precision != executed.value or window is None:
                    continue
                assert isinstance(inputs, tuple)
                assert isinstance(outputs, tuple)
                assert isinstance(window, tuple)
                assert isinstance(groups, int)
                if inputs[0] % groups or outputs[0] % groups:
                    continue
                spec = ConvSpec(inputs[0], outputs[0], (window[0], window[1]), groups)
                guess = self._estimate(spec, (inputs[1], inputs[2]), (outputs[1], outputs[2]), plain)
                ratios.append(statistics.median(times) / guess)
            self._ratios[executed] = statistics.median(ratios) if ratios else 1.0
        return self._ratios[executed]


def _fixed_ms(space: SearchSpace, known: _Known, rule: PrecisionRule) -> float:
    where, total = known.where, 0.0
    for part in space.wiring.fixed:
        sides = (where.height * part.factor, where.width * part.factor)
        if part.kind != "esa":
            total += known.at(ConvSpec(part.inputs, part.outputs, (part.kernel,) * 2), sides, sides, rule)[0]
            continue
        strided, coarse = coarse_sides(*sides)
        ends = {"stride": (sides, strided), "first": (coarse, coarse), "second": (coarse, coarse),
                "third": (coarse, coarse)}  # fmt: skip
        total += sum(known.at(spec, *ends.get(n, (sides, sides)), rule)[0]
                     for n, spec in esa_convs(part.inputs, part.outputs))  # fmt: skip
    return total


def _crossing(producer: Site, consumer: Site, where: Where, rules: dict[int, PrecisionRule]) -> torch.Tensor:
    """A conversion reads the tensor in one type and writes it in the other."""
    elements = consumer.inputs * where.height * where.width * consumer.factor**2
    rows = []
    for producer_bits in producer.bits:
        row = []
        for consumer_bits in consumer.bits:
            read, written = (rules[b].executes_as for b in (producer_bits, consumer_bits))
            if read is written:
                row.append(0.0)
                continue
            moved = bytes_moved(0, elements, elements, 8, read.bits, written.bits)
            found = estimate_ms(0, moved, DType.FP32, where.profile, where.cores)
            row.append(_known(None if found is None else found.ms, DType.FP32, where.profile))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def _rule(profile: DeviceProfile, runtime: str, bits: int) -> PrecisionRule | None:
    if bits == FLOAT_BITS:
        floats = [r for r in profile.rules_for(Op.CONV, runtime) if r.weight is None and r.act is None]
        return next((r for r in floats if r.native), None)
    return profile.resolve(Op.CONV, bits, bits, runtime)


def _known(ms: float | None, executes_as: DType, profile: DeviceProfile) -> float:
    if ms is None:
        raise UsageError(f"{profile.id} gives no peak of {executes_as} or no bandwidth; count --cost bitops")
    return ms
