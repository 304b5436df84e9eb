"""Reading the attributes of ONNX nodes."""

from __future__ import annotations

import onnx


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """The attributes of a node as Python values, text decoded."""
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def numbers(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute that is a list of integers."""
    found = attributes(node).get(name)
    return default if found is None else tuple(int(value) for value in found)  # type: ignore[attr-defined]


def number(node: onnx.NodeProto, name: str, default: float) -> float:
    """An attribute that is a number."""
    return float(attributes(node).get(name, default))  # type: ignore[arg-type]


def text(node: onnx.NodeProto, name: str, default: str) -> str:
    """An attribute that is text."""
    return str(attributes(node).get(name, default))
