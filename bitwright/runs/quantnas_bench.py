"""Bench: a request of QuantNAS with its space, its costs and its task opened and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.foundation.errors import UsageError
from bitwright.runs.quantnas_request import QuantnasRequest
from bitwright.runs.runtime_choice import choose_runtime
from hw_profiles import DeviceProfile, DType, load_profile
from hw_profiles.latency_table import LatencyTable
from search.quantnas import CostTable, Where, bitops_costs, latency_costs
from search.quantnas.latency_costs import has_width, native_widths, next_wider, off_step
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.searched import SearchSpace
from workloads.super_resolution.models.searched.attention import MIN_INPUT_SIDE
from workloads.super_resolution.task import SuperResolution


@dataclass(frozen=True)
class Bench:
    """A request with everything that it names opened: space, costs, what its widths run as."""

    request: QuantnasRequest
    space: SearchSpace
    table: CostTable
    runs_as: dict[int, str]
    notes: tuple[str, ...]

    @staticmethod
    def open(request: QuantnasRequest) -> Bench:
        """UsageError where space, device, widths and table do not fit each other."""
        request.check_inputs()
        space = request.searched_space()
        if request.device is None:
            space = _ended(request, space)
            return Bench(request, space, _bitops(request, space), {}, ())
        profile = load_profile(request.device)
        runtime = choose_runtime(profile, request.runtime).value
        remarks: list[str] = []
        if request.by_latency:
            space = _ended(request, _legal(request, space, profile, runtime, remarks))
            height, width = request.input_size or (128, 128)
            measured = None if request.table is None else LatencyTable.load(request.table)
            found = latency_costs(space, Where(profile, runtime, 1, height, width), measured)
            remarks.append(f"cost: {found.table.source}")
            table, runs_as = found.table, found.runs_as
            if request.bitops_weight:
                table = table.plus(_bitops(request, space), request.bitops_weight, table.uniform())
        else:
            space = _ended(request, space)
            table = _bitops(request, space)
            rules = next_wider(space, profile, runtime)
            runs_as = {bits: rule.executes_as.value for bits, rule in rules.items()}
        remarks += _run_as_others(space, profile, runtime, runs_as)
        if odd := off_step(space, profile):
            step = profile.channel_step(DType.INT8)
            remarks.append(f"{len(odd)} layers, such as {odd[0]}, make channels that are no multiple of {step}")
        return Bench(request, space, table, runs_as, tuple(remarks))

    def workload(self) -> SuperResolution:
        """The task of the space's networks."""
        return workload_of(self.space)


def workload_of(space: SearchSpace) -> SuperResolution:
    """The task of a space's networks."""
    attentive = any(part.kind == "esa" for part in space.wiring.fixed)
    least = MIN_INPUT_SIDE if attentive else 1
    return SuperResolution(SRFormat(space.scale, Color.RGB, 1.0, min_input_side=least))


def _bitops(request: QuantnasRequest, space: SearchSpace) -> CostTable:
    """At the LR size that the literature's figures use, or at the one that was asked for."""
    height, width = request.input_size or (32, 32)
    return bitops_costs(space, height=height, width=width, exponent=request.bitops_exponent)


def _run_as_others(space: SearchSpace, profile: DeviceProfile, runtime: str, runs_as: dict[int, str]) -> list[str]:
    """A remark for each type that stands in for widths that the device does not multiply in."""
    widths: dict[str | None, list[int]] = {}
    for bits in space.all_bits:
        executed = runs_as.get(bits)
        if not has_width(profile, runtime, bits) or (executed == DType.INT8.value and bits < 8):
            widths.setdefault(executed, []).append(bits)
    remarks = []
    for executed, found in widths.items():
        layers = f"on {profile.id} with {runtime}, {', '.join(map(str, found))}-bit layers"
        gain = ": smaller, not faster than 8 bit" if executed == DType.INT8.value else ""
        remarks.append(f"{layers} cannot run" if executed is None else f"{layers} run as {executed}{gain}")
    return remarks


def _ended(request: QuantnasRequest, space: SearchSpace) -> SearchSpace:
    """The space whose first and last layers are as wide as was asked for."""
    return space.with_ends(request.end_bits) if request.end_bits else space


def _legal(request: QuantnasRequest, space: SearchSpace, profile: DeviceProfile, runtime: str,
           remarks: list[str]) -> SearchSpace:  # fmt: skip
    """The space with widths that the device gains from, unless others were asked for by name."""
    step = profile.channel_step(DType.INT8) or 1
    if space.width % step:
        fitting = [w for w in range(step, 2 * space.width + 4 * step, step) if _can_have(space, w)]
        nearest = sorted(fitting, key=lambda w: abs(w - space.width))[:2]
        advice = f"give --width {' or '.join(map(str, sorted(nearest)))}" if nearest else "change its groups"
        raise UsageError(
            f"{space.name} is {space.width} channels wide, no multiple of {step}, and {profile.id} would be slow for "
            f"that alone: {advice}"
        )
    if request.bits is not None:
        return space
    native = native_widths(space, profile, runtime)
    if not native:
        raise UsageError(f"{profile.id} runs none of {space.bits} bits at its own speed; choose with --bits")
    if native != space.bits:
        remarks.append(f"bit widths that {profile.id} gains from: {', '.join(map(str, native))} of {space.bits}")
    return space.resized(bits=native)


def _can_have(space: SearchSpace, width: int) -> bool:
    try:
        space.resized(width=width)
    except UsageError:
        return False
    return True
