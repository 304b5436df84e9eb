"""Turns a request that does not fit into one line: which option, which value, what is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from bitwright.foundation.suggest import nearest

_EXPECTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
}


def complaint(error: ValidationError, fields: Mapping[str, FieldInfo], label: Callable[[str], str]) -> str:
    """The first violation as one line, with the number of others; `label` turns a field into what a user types."""
    details = error.errors()
    # An unknown name is told first: a misspelt one also makes the right one look missing.
    first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return _line(first, fields, label) + more


def _line(item: ErrorDetails, fields: Mapping[str, FieldInfo], label: Callable[[str], str]) -> str:
    if not item["loc"]:
        return f"a request is a mapping of settings, not {item['input']!r}"
    name, kind = str(item["loc"][0]), item["type"]
    if kind == "extra_forbidden":
        return f"unknown setting {name!r}; {nearest(name, fields)}"
    meaning = (fields[name].description or name).rstrip(".")
    if kind == "missing":
        return f"{label(name)} is missing: {meaning}"
    expected = _EXPECTED.get(kind) or str(item["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{label(name)}: {item['input']!r} is not valid; expected {expected.removeprefix('expected ')} ({meaning})"
