"""How our graph operators are written in ONNX. Traced by onnxscript, so these functions are not typed."""

from onnxscript import opset18 as op


def quantize_dequantize(x, scale, zero_point):
    """A QuantizeLinear/DequantizeLinear pair on an activation, per tensor."""
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)


def dequantize(q, scale, zero_point, axis=0):
    """A constant behind DequantizeLinear, per channel along `axis`."""
    return op.DequantizeLinear(q, scale, zero_point, axis=axis)
