"""PlanCost: what a plan costs as a sum that a solver can minimise; and the estimate to fall back on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from bitwright.foundation.errors import UsageError
from compress.layer_table import LayerRow, LayerTable
from hw_profiles import DeviceProfile, DType, PrecisionRule, bytes_moved, estimate_ms
from hw_profiles.roofline import ESTIMATED, assumed_slowdowns, rule_ms
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

    Layers as in `rule_ms`; those whose inputs have the same format need no conversion between them.

    For devices of which nothing was measured. UsageError where the profile has no peak or no bandwidth, or a precision
    that it does not execute.
    """
    rows = {row.name: row for row in table.rows}
    rules = {n: {p: _rule(rows[n], p, profile, runtime) for p in precisions} for n, precisions in allowed.items()}
    layer_ms = {n: {p: _layer_ms(rows[n], rule, profile, cores) for p, rule in row.items()} for n, row in rules.items()}
    crossings = []
    for producer, consumer in edges:
        elements = rows[consumer].input_elements
        ms = {
            p: {
                q: _stream_ms(elements, a, b, profile, cores)
                for q, b in rules[consumer].items()
                if _inputs(a) != _inputs(b)
            }
            for p, a in rules[producer].items()
        }
        crossings.append(Crossing(producer=producer, consumer=consumer, ms=ms))
    assumed = assumed_slowdowns(rule for row in rules.values() for rule in row.values())
    source = f"roofline ({'; '.join(filter(None, (ESTIMATED, assumed)))})"
    return SeparableCost(constant_ms=0.0, layer_ms=layer_ms, boundaries=tuple(crossings), source=source)


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


def _layer_ms(row: LayerRow, rule: PrecisionRule, profile: DeviceProfile, cores: int) -> float:
    found = rule_ms(rule, row.macs, row.weight_elements, row.input_elements, row.output_elements, profile, cores)
    return _known(found, rule.executes_as, profile)


def _inputs(rule: PrecisionRule) -> tuple[DType, int]:
    """What a tensor must be to be read by a rule as it is."""
    return rule.act_dtype, rule.act_bits


def _stream_ms(
    elements: int, producer: PrecisionRule, consumer: PrecisionRule, profile: DeviceProfile, cores: int
) -> float:
    moved = bytes_moved(0, elements, elements, 8, producer.act_dtype.bits, consumer.act_dtype.bits)
    found = estimate_ms(0, moved, DType.FP32, profile, cores)
    return _known(None if found is None else found.ms, DType.FP32, profile)


def _known(ms: float | None, executes_as: DType, profile: DeviceProfile) -> float:
    if ms is None:
        raise UsageError(f"{profile.id} gives no peak of {executes_as} or no bandwidth; nothing can be estimated")
    return ms
