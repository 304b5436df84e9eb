"""Turns a schema violation into one line: which field, which value, what is expected, and the likely intention."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_UNITS = {
    "mhz": "MHz",
    "tops": "TOPS",
    "gops_per_core": "GOP/s per core",
    "gb_s": "GB/s",
    "gb_s_per_core": "GB/s per core",
    "gb": "GB",
    "kib": "KiB",
    "kib_per_core": "KiB per core",
    "w": "watt",
    "us": "microseconds",
    "ns_per_element": "nanoseconds per element",
}
_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text (put it in quotes)",
    "tuple_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
}
_NUMERIC = {"float_type", "int_type", "greater_than", "greater_than_equal", "less_than", "less_than_equal"}


def complaint(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first violation as one line, with the number of further ones."""
    details = error.errors()
    # An unknown key is named first: a misspelt name also makes the right one look missing.
    first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return _line(first, schema) + more


def _line(item: ErrorDetails, schema: type[BaseModel]) -> str:
    location, kind = item["loc"], item["type"]
    path = ".".join(str(part) for part in location if part != "[key]")
    if kind == "extra_forbidden":
        return f"{path}: unknown field; {_suggestion(str(location[-1]), _names(schema, location[:-1]))}"
    if kind == "missing":
        return f"{path}: this field is missing"
    if kind == "value_error":
        text = str(item["msg"]).removeprefix("Value error, ")
        value = "" if isinstance(item["input"], dict) else f"{_shown(item['input'])} is not valid; "
        return f"{path}: {value}{text}" if path else text
    expected = _EXPECTED.get(kind) or str(item["msg"]).removeprefix("Input should be ")
    unit = _unit(location) if kind in _NUMERIC else ""
    return f"{path}: {_shown(item['input'])} is not valid; expected {expected}{unit}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unit(location: Sequence[int | str]) -> str:
    for part in reversed(location):
        for suffix in sorted(_UNITS, key=len, reverse=True):
            if str(part) == suffix or str(part).endswith("_" + suffix):
                return f" in {_UNITS[suffix]} (the unit belongs to the name; write the bare number)"
    return ""


def _suggestion(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _names(schema: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] | None = schema
    for part in location:
        if model is None:
            return []
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        # A part that is not a field is a mapping's key or a list's position: the model stays.
        if str(part) in fields:
            model = _model_in(fields[str(part)].annotation)
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)
