"""Where each number of a profile came from: entries under dotted paths, which cover everything below them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from hw_profiles.model import Part
from hw_profiles.terms import Status

SECTIONS = ("compute", "memory", "power", "limits", "cost")
_NAMES_OF_LIST_ITEMS = ("id", "engine", "pattern")


class Provenance(Part):
    """The source of one number or of a group of numbers."""

    source: Annotated[str, Field(min_length=1)]
    url: str | None = None
    status: Status


def children(value: object) -> Iterator[tuple[str, object]]:
    """The named parts of plain data: a mapping's items, or a list's by their id, engine or pattern, else position."""
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            named = isinstance(item, Mapping)
            names = [str(item[key]) for key in _NAMES_OF_LIST_ITEMS if key in item] if named else []
            yield (names[0] if names else str(position)), item


def numbers(value: object, path: str) -> Iterator[str]:
    """Dotted paths of all non-null numbers in plain data."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield path
    for name, item in children(value):
        yield from numbers(item, f"{path}.{name}")


def numbers_that_need_a_source(profile: Mapping[str, Any]) -> Iterator[str]:
    """Numbers in compute, memory, power, limits, cost, and the slowdowns of emulated precisions."""
    for section in SECTIONS:
        yield from numbers(profile.get(section), section)
    for name, rule in children(profile.get("precisions")):
        emulation = rule.get("emulation") if isinstance(rule, Mapping) else None
        yield from numbers(emulation, f"precisions.{name}.emulation")


def exists(profile: Mapping[str, Any], path: str) -> bool:
    """Whether a dotted path names a field of the profile, be it null."""
    value: object = profile
    for name in path.split("."):
        items = dict(children(value))
        if name not in items:
            return False
        value = items[name]
    return True


def speaks_of_something(profile: Mapping[str, Any], path: str) -> bool:
    """Whether a source under `path` has a number to speak of; one outside the sections of numbers always has."""
    if path.partition(".")[0] not in SECTIONS:
        return True
    return any(number == path or number.startswith(f"{path}.") for number in numbers_that_need_a_source(profile))


def covering(path: str, entries: Iterable[str]) -> str | None:
    """The most specific entry at or above `path`."""
    above = [entry for entry in entries if path == entry or path.startswith(entry + ".")]
    return max(above, key=len, default=None)


def uncovered(profile: Mapping[str, Any], entries: Iterable[str]) -> list[str]:
    """Numbers that no entry covers."""
    known = list(entries)
    return [path for path in numbers_that_need_a_source(profile) if covering(path, known) is None]
