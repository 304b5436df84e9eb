"""What a device executes, as a form and widths of a supernet; and what a member of the space costs there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from bitwright.foundation.errors import UsageError
from compress.layer_table import LayerTable
from compress.plan import LayerPlan, Plan
from compress.quantizers import Granularity
from hw_profiles import DeviceProfile, Op, PrecisionRule
from search.eqnet.accounting import Accounting, LayerCosts, latency, precision_name
from search.eqnet.forms import NARROW_FROM, NARROWEST, WIDEST, Form
from search.eqnet.genes import GeneMap
from search.eqnet.space import ElasticSpace
from search.sensitivity.cost import SeparableCost, roofline_cost
from search.sensitivity.groups import edges

NO_RULE = "no integer rule in the profile"


@dataclass(frozen=True)
class DeviceChoice:
    """A device with a runtime: the form of its weights and activations, and the widths of each layer.

    `allowed`: by layer, widths of weights and of the input, every pair of which is legal. `in_float`: layers that it
    does not execute on integers. `runs_as`: by precision, what it is executed as.
    """

    profile: DeviceProfile
    runtime: str
    form: Form
    unsigned: bool
    reduce_range: bool
    allowed: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    in_float: tuple[str, ...]
    runs_as: dict[str, str]

    @property
    def has_choice(self) -> bool:
        """Whether any layer has more than one pair of widths."""
        return any(len(w) * len(a) > 1 for w, a in self.allowed.values())


def device_choice(
    profile: DeviceProfile, runtime: str, table: LayerTable, space: ElasticSpace, *, native_only: bool = True
) -> DeviceChoice:
    """Read a profile for a network. With `native_only=False`, also widths that the runtime emulates.

    UsageError where the runtime executes no layer on 8-bit integers, or layers in forms that differ, or where it has
    none of a layer's widths.
    """
    allowed: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    runs_as: dict[str, str] = {}
    in_float: list[str] = []
    found: set[tuple[Form, bool, bool]] = set()
    legal: set[tuple[int, int]] = set()
    for row, layer in zip(table.rows, space.layers, strict=True):
        rules = _integer_rules(profile, row.op, runtime, native_only)
        first = rules.get((WIDEST, WIDEST))
        if first is None:
            in_float.append(layer.name)
            allowed[layer.name] = ((WIDEST,), (WIDEST,))
            continue
        found.add(_form(first))
        legal |= set(rules)
        like = {pair: rule for pair, rule in rules.items() if _form(rule)[:2] == _form(first)[:2]}
        weights = tuple(b for b in layer.weight_bits if (b, WIDEST) in like)
        inputs = tuple(b for b in layer.activation_bits if all((w, b) in like for w in weights))
        narrow = tuple(b for b in layer.activation_bits if (WIDEST, b) in like)
        if inputs == (WIDEST,) and len(narrow) > 1:
            # Weights of all widths want 8-bit inputs: rather fewer of them, where narrow inputs are legal too.
            weights = tuple(b for b in weights if all((b, a) in like for a in narrow))
            inputs = narrow
        allowed[layer.name] = (weights, inputs)
        runs_as |= {precision_name(*pair): rule.executes_as.value for pair, rule in like.items()}
    if not found:
        raise UsageError(f"{profile.id} executes no layer of this network on 8-bit integers with {runtime}")
    if len(found) > 1:
        raise UsageError(f"{profile.id} wants layers of this network in different forms; a supernet has one at a time")
    try:
        GeneMap(space, allowed)
    except UsageError as error:
        able = ", ".join(sorted({precision_name(*pair) for pair in legal}))
        raise UsageError(f"{profile.id}: {error}, and {runtime} executes {able}; give those with --bits") from error
    form, unsigned, reduce_range = found.pop()
    return DeviceChoice(profile, runtime, form, unsigned, reduce_range, allowed, tuple(in_float), runs_as)


def device_cost(
    choice: DeviceChoice, table: LayerTable, space: ElasticSpace, graph: fx.GraphModule, float_precision: str
) -> LayerCosts:
    """Predicted ms by the profile's roofline; BitOps where the profile lacks the figures, which `source` says."""
    names = {
        layer: [float_precision] if layer in choice.in_float else [precision_name(w, a) for w in ws for a in as_]
        for layer, (ws, as_) in choice.allowed.items()
    }
    wide = precision_name(WIDEST, WIDEST)
    try:
        found = roofline_cost(table, edges(graph), names, choice.profile, choice.runtime)
    except UsageError as error:
        counted = Accounting.of(table, space).bitops()
        return LayerCosts(counted.name, counted.unit, counted.table, source=f"counted, because {error}")
    layers = {n: {wide: row[float_precision]} if n in choice.in_float else row for n, row in found.layer_ms.items()}
    plain = SeparableCost(
        constant_ms=found.constant_ms, layer_ms=layers, source=found.source,
        boundaries=tuple(e for e in found.boundaries if not {e.producer, e.consumer} & set(choice.in_float)),
    )  # fmt: skip
    return latency(plain, space, found.source)


def illegal_layers(plan: Plan, profile: DeviceProfile, table: LayerTable) -> list[str]:
    """The layers of a plan that no rule of its device and runtime covers, each with what is wrong."""
    complaints = []
    for row in table.rows:
        layer = plan.layers[row.name]
        if layer.weight is None or layer.activation is None:
            continue
        rules = _integer_rules(profile, row.op, plan.runtime, native_only=False)
        if not any(_covers(rule, layer) for rule in rules.values()):
            complaints.append(
                f"{row.name}: no rule of {profile.id} for {row.op} with {layer.weight.bits}-bit weights and "
                f"{layer.activation.bits}-bit activations in this form"
            )
    return complaints


def _covers(rule: PrecisionRule, layer: LayerPlan) -> bool:
    weight, activation = layer.weight, layer.activation
    if weight is None or activation is None or rule.weight is None or rule.act is None:
        return False
    form, unsigned, reduce_range = _form(rule)
    # Below NARROW_FROM a zero point of 0 is what makes a tensor symmetric; its format is the asymmetric one.
    widths = (weight.bits, activation.bits) == (rule.weight_bits, rule.act_bits)
    finer = weight.granularity is Granularity.TENSOR or form.granularity is Granularity.CHANNEL
    weights = weight.symmetric or not form.weight_symmetric or weight.bits < NARROW_FROM
    centred = activation.symmetric or not form.activation_symmetric or activation.bits < NARROW_FROM
    inputs = activation.signed != unsigned and centred
    return widths and finer and weights and inputs and (weight.reduce_range or not reduce_range or weight.bits < WIDEST)


def _integer_rules(
    profile: DeviceProfile, op: Op, runtime: str, native_only: bool
) -> dict[tuple[int, int], PrecisionRule]:
    """The first rule of each pair of integer widths that a supernet can have."""
    found: dict[tuple[int, int], PrecisionRule] = {}
    for rule in profile.rules_for(op, runtime, native_only=native_only):
        pair = (rule.weight_bits, rule.act_bits)
        if rule.weight is None or rule.act is None or not _all_within(pair) or not rule.executes_as.is_integer:
            continue
        granularity = None if rule.weight.granularity is None else rule.weight.granularity.value
        if granularity in (None, Granularity.TENSOR.value, Granularity.CHANNEL.value):
            found.setdefault(pair, rule)
    return found


def _all_within(widths: Sequence[int]) -> bool:
    return all(NARROWEST <= bits <= WIDEST for bits in widths)


def _form(rule: PrecisionRule) -> tuple[Form, bool, bool]:
    """Form, whether activations are unsigned, and whether a bit stays unused; what is left open is symmetric."""
    assert rule.weight is not None
    assert rule.act is not None
    granularity = rule.weight.granularity.value if rule.weight.granularity else Granularity.TENSOR.value
    form = Form(Granularity(granularity), rule.weight.symmetric is not False, rule.act.symmetric is not False)
    return form, rule.act.dtype.value.startswith("u"), rule.reduce_range
