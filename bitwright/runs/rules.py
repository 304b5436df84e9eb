"""Rules of a device profile as formats of layers."""

from __future__ import annotations

from bitwright.runs.precision import Precision
from compress.plan import LayerPlan
from compress.quantizers import Encoding, Granularity, QuantFormat
from deploy.engine import Runtime
from hw_profiles import DeviceProfile, DType, Op, PrecisionRule, TensorFormat


def integer_rule(profile: DeviceProfile, op: Op, runtime: Runtime) -> PrecisionRule | None:
    """The first native 8-bit integer rule of the profile for an operator."""
    rule = profile.resolve(op, 8, 8, runtime.value, native_only=True)
    return rule if rule is not None and rule.weight is not None and rule.act is not None else None


def rule_of(profile: DeviceProfile, op: Op, runtime: Runtime, precision: Precision) -> PrecisionRule | None:
    """The first native rule of the profile for an operator in a precision, with the forms of what is quantised."""
    if precision.is_float:
        return None
    if precision is Precision.INT8:
        return integer_rule(profile, op, runtime)
    if precision is Precision.W4A16:
        rules = profile.rules_for(op, runtime.value, native_only=True) if runtime.has_weight_blocks else ()
        return next((rule for rule in rules if rule.in_blocks), None)
    rule = profile.fp8_rule(op, runtime.value) if runtime.has_fp8 else None
    return rule if rule is not None and rule.weight is not None and rule.act is not None else None


def layer_plan(rule: PrecisionRule) -> LayerPlan:
    """The formats that a profile's rule prescribes."""
    assert rule.weight is not None
    assert rule.act is not None
    return LayerPlan(
        weight=quant_format(rule.weight, rule.weight_bits, rule.reduce_range),
        activation=None if rule.in_blocks else quant_format(rule.act, rule.act_bits),
    )


def quant_format(tensor: TensorFormat, bits: int, reduce_range: bool = False) -> QuantFormat:
    """A profile's tensor format as a quantiser's; where the profile leaves the form open, per tensor and symmetric."""
    fp8 = tensor.dtype is DType.FP8
    return QuantFormat(
        bits=bits,
        granularity=Granularity(tensor.granularity.value if tensor.granularity else "tensor"),
        symmetric=tensor.symmetric is not False,
        signed=fp8 or tensor.dtype.value.startswith("int"),
        reduce_range=reduce_range,
        encoding=Encoding.E4M3 if fp8 else Encoding.INTEGER,
        block=tensor.block,
    )
