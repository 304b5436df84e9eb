"""How our graph operators are written in ONNX. Traced by onnxscript, so these functions are not typed."""

import onnx
from onnxscript import opset18 as op
from onnxscript import values

from deploy.onnx_blocks import BLOCKS, BLOCKS_DOMAIN

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
_BLOCKS = values.Op(
    values.Opset(BLOCKS_DOMAIN, 1),
    BLOCKS,
    onnx.defs.OpSchema(
        BLOCKS,
        BLOCKS_DOMAIN,
        1,
        inputs=[
            onnx.defs.OpSchema.FormalParameter("q", "Q"),
            onnx.defs.OpSchema.FormalParameter("scale", "T"),
        ],
        outputs=[onnx.defs.OpSchema.FormalParameter("y", "T")],
        type_constraints=[("Q", ["tensor(int8)"], ""), ("T", ["tensor(float)"], "")],
        attributes=[onnx.defs.OpSchema.Attribute("block", onnx.defs.OpSchema.AttrType.INT)],
    ),
)


def quantize_dequantize(x, scale, zero_point):
    """A QuantizeLinear/DequantizeLinear pair on an activation, per tensor."""
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)


def dequantize(q, scale, zero_point, axis=0):
    """A constant behind DequantizeLinear, per channel along `axis`."""
    return op.DequantizeLinear(q, scale, zero_point, axis=axis)


def dequantize_blocks(q, scale, block=0):
    """A constant that `deploy.onnx_blocks` puts behind DequantizeLinear when the file is written."""
    return _BLOCKS(q, scale, block=block)


def quant(x, scale, zero_point, bits, signed=True, narrow=True):
    """QONNX's quantiser of any width, rounding half to even."""
    return _QUANT(x, scale, zero_point, bits, signed=int(signed), narrow=int(narrow), rounding_mode="ROUND")
