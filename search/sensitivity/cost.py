"""PlanCost: what a plan costs as a sum that a solver can minimise; and the estimate to fall back on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from bitwright.foundation.errors import UsageError
from compress.layer_table import LayerRow, LayerTable
from hw_profiles import DeviceProfile, DType, PrecisionRule, bytes_moved, estimate_ms
from hw_profiles.roofline import ESTIMATED
from search.sensitivity.precision import Assignment, is_float


class CrossingCost(Protocol):
    """What an edge adds, ms by precision of the producer, then of the consumer; absent pairs add nothing."""

    @property
    def producer(self) -> str: ...  # noqa: D102 - see the class
    @property
    def consumer(self) -> str: ...  # noqa: D102
    @property
    def ms(self) -> Mapping[str, Mapping[str, float]]: ...  # noqa: D102


class PlanCost(Protocol):
    """cost(plan) = constant + sum of layer_ms[i][p_i] + sum over edges of their crossing [p_i][p_j], in ms.

    `hw_profiles.additive_cost.AdditiveCost`, fitted to a predictor of a measured table, is one.
    """

    @property
    def constant_ms(self) -> float: ...  # noqa: D102 - see the class
    @property
    def layer_ms(self) -> Mapping[str, Mapping[str, float]]: ...  # noqa: D102
    @property
    def boundaries(self) -> Sequence[CrossingCost]: ...  # noqa: D102


class Crossing(BaseModel):
    """What an edge adds, ms by precision of the producer, then of the consumer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    producer: str
    consumer: str
    ms: dict[str, dict[str, float]]


class SeparableCost(BaseModel):
    """A PlanCost as plain values. `source` says where they come from: an estimate is labelled `estimated`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    constant_ms: float
    layer_ms: dict[str, dict[str, float]]
    boundaries: tuple[Crossing, ...] = ()
    source: str

    @staticmethod
    def of(cost: PlanCost, source: str) -> SeparableCost:
        """A copy of any separable cost."""
        crossings = (
            Crossing(producer=b.producer, consumer=b.consumer, ms={p: dict(row) for p, row in b.ms.items()})
            for b in cost.boundaries
        )
        layers = {name: dict(row) for name, row in cost.layer_ms.items()}
        return SeparableCost(constant_ms=cost.constant_ms, layer_ms=layers, boundaries=tuple(crossings), source=source)

    def ms(self, assignment: Assignment) -> float:
        """Time of a plan in ms; UsageError for a layer in a precision of which no cost is known."""
        total = self.constant_ms
        for layer, row in self.layer_ms.items():
            if assignment.get(layer) not in row:
                raise UsageError(f"no cost is known for layer {layer} in {assignment.get(layer)} (known: {list(row)})")
            total += row[assignment[layer]]
        for edge in self.boundaries:
            total += edge.ms.get(assignment[edge.producer], {}).get(assignment[edge.consumer], 0.0)
        return total

    def check(self, allowed: Mapping[str, Collection[str]]) -> None:
        """UsageError names the first layer or precision that is allowed and has no cost."""
        for layer, precisions in allowed.items():
            missing = [p for p in precisions if p not in self.layer_ms.get(layer, {})]
            if missing:
                raise UsageError(f"the cost of layer {layer} in {missing[0]} is not known; measure it or leave it out")


def roofline_cost(
    table: LayerTable,
    edges: Sequence[tuple[str, str]],
    allowed: Mapping[str, Collection[str]],
    profile: DeviceProfile,
    runtime: str,
    cores: int = 1,
) -> SeparableCost:
    """Layers by the profile's roofline at the size of `table`, crossings by the bytes that a conversion moves.

    Values move in the types that the profile stores them in, an emulated width takes as many times what it is executed
    as takes as its rule says, and layers whose inputs have the same format need no conversion between them.

    For devices of which nothing was measured. UsageError where the profile has no peak or no bandwidth, or a precision
    that it does not execute.
    """
    rows = {row.name: row for row in table.rows}
    layer_ms = {
        name: {p: _layer_ms(rows[name], p, profile, runtime, cores) for p in precisions}
        for name, precisions in allowed.items()
    }
    crossings = []
    for producer, consumer in edges:
        elements = rows[consumer].input_elements
        written, read = (
            {p: _rule(rows[name], p, profile, runtime) for p in allowed[name]} for name in (producer, consumer)
        )
        ms = {
            p: {q: _stream_ms(elements, a, b, profile, cores) for q, b in read.items() if _inputs(a) != _inputs(b)}
            for p, a in written.items()
        }
        crossings.append(Crossing(producer=producer, consumer=consumer, ms=ms))
    return SeparableCost(
        constant_ms=0.0, layer_ms=layer_ms, boundaries=tuple(crossings), source=f"roofline ({ESTIMATED})"
    )


def _rule(row: LayerRow, precision: str, profile: DeviceProfile, runtime: str) -> PrecisionRule:
    for rule in profile.rules_for(row.op, runtime):
        if is_float(precision):
            if rule.weight is None and rule.act is None and rule.executes_as.value == precision:
                return rule
        elif (rule.weight_bits, rule.act_bits) == bits_of(precision) and rule.weight is not None:
            return rule
    raise UsageError(f"{profile.id} does not execute {row.op} in {precision} with {runtime}")


def bits_of(precision: str) -> tuple[int, int]:
    """Weight and activation bits of a precision's name."""
    if is_float(precision):
        return DType(precision).bits, DType(precision).bits
    if precision.startswith("int"):
        return int(precision[3:]), int(precision[3:])
    weight, _, activation = precision[1:].partition("a")
    return int(weight), int(activation)


def _layer_ms(row: LayerRow, precision: str, profile: DeviceProfile, runtime: str, cores: int) -> float:
    rule = _rule(row, precision, profile, runtime)
    stored = rule.weight_dtype.bits, rule.act_dtype.bits
    moved = bytes_moved(row.weight_elements, row.input_elements, row.output_elements, *stored)
    slowdown = None if rule.emulation is None else rule.emulation.slowdown
    return _estimate(row.macs, moved, rule.executes_as, profile, cores) * (slowdown or 1.0)


def _inputs(rule: PrecisionRule) -> tuple[DType, int]:
    """What a tensor must be to be read by a rule as it is."""
    return rule.act_dtype, rule.act_bits


def _stream_ms(
    elements: int, producer: PrecisionRule, consumer: PrecisionRule, profile: DeviceProfile, cores: int
) -> float:
    moved = bytes_moved(0, elements, elements, 8, producer.act_dtype.bits, consumer.act_dtype.bits)
    as_type = DType.FP32
    return _estimate(0, moved, as_type, profile, cores)


def _estimate(macs: int, moved: int, executes_as: DType, profile: DeviceProfile, cores: int) -> float:
    found = estimate_ms(macs, moved, executes_as, profile, cores)
    if found is None:
        raise UsageError(f"{profile.id} gives no peak of {executes_as} or no bandwidth; nothing can be estimated")
    return found.ms
