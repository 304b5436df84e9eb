"""How our graph operators are written in ONNX. Traced by onnxscript, so these functions are not typed."""

import onnx
from onnxscript import opset18 as op
from onnxscript import values

_DOMAIN = "qonnx.custom_op.general"
_QUANT = values.Op(
    values.Opset(_DOMAIN, 1),
    "Quant",
    onnx.defs.OpSchema(
        "Quant",
        _DOMAIN,
        1,
        inputs=[onnx.defs.OpSchema.FormalParameter(name, "T") for name in ("x", "scale", "zeropt", "bitwidth")],
        outputs=[onnx.defs.OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[
            onnx.defs.OpSchema.Attribute("signed", onnx.defs.OpSchema.AttrType.INT),
            onnx.defs.OpSchema.Attribute("narrow", onnx.defs.OpSchema.AttrType.INT),
            onnx.defs.OpSchema.Attribute("rounding_mode", onnx.defs.OpSchema.AttrType.STRING),
        ],
    ),
)


def quantize_dequantize(x, scale, zero_point):
    """A QuantizeLinear/DequantizeLinear pair on an activation, per tensor."""
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)


def dequantize(q, scale, zero_point, axis=0):
    """A constant behind DequantizeLinear, per channel along `axis`."""
    return op.DequantizeLinear(q, scale, zero_point, axis=axis)


def quant(x, scale, zero_point, bits, signed=True, narrow=True):
    """QONNX's quantiser of any width, rounding half to even."""
    return _QUANT(x, scale, zero_point, bits, signed=int(signed), narrow=int(narrow), rounding_mode="ROUND")
