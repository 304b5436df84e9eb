"""Reading the attributes of ONNX nodes."""

from __future__ import annotations

import onnx


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """The attributes of a node as Python values, text decoded."""
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def numbers(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute that is a list of integers."""
    found = _named(node, name)
    return default if found is None else tuple(found.ints)


def number(node: onnx.NodeProto, name: str, default: float) -> float:
    """An attribute that is a number."""
    found = _named(node, name)
    if found is None:
        return default
    return found.f if found.type == onnx.AttributeProto.FLOAT else float(found.i)


def text(node: onnx.NodeProto, name: str, default: str) -> str:
    """An attribute that is text."""
    found = _named(node, name)
    return default if found is None else found.s.decode()


def _named(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)
