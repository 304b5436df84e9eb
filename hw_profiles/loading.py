"""Reads device profiles: by name from the catalogue, or from a user's own YAML file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bitwright.foundation.errors import ProfileError
from bitwright.foundation.yaml_file import read_mapping
from hw_profiles.complaints import complaint
from hw_profiles.provenance import speaks_of_something, uncovered
from hw_profiles.schema import DeviceProfile

CATALOGUE = Path(__file__).parent / "catalogue"


def profile_ids() -> tuple[str, ...]:
    """The names in the catalogue, sorted."""
    return tuple(sorted(path.stem for path in CATALOGUE.glob("*.yaml")))


def list_profiles() -> tuple[DeviceProfile, ...]:
    """Every profile of the catalogue, sorted by id."""
    return tuple(_from_catalogue(name) for name in profile_ids())


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """A profile of the catalogue by its id, or a YAML file by its path (it ends in .yaml or .yml, or has a folder).

    Raises ProfileError, one line: unknown name with the nearest ones, unreadable file, YAML error with its line
    number, or a violation of the schema with the field, the value and what is expected.
    """
    text = str(name_or_path)
    path = Path(text)
    if isinstance(name_or_path, Path) or path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        return _from_file(path)
    if text in profile_ids():
        return _from_catalogue(text)
    raise ProfileError(_unknown(text))


@cache
def _from_catalogue(name: str) -> DeviceProfile:
    return _from_file(CATALOGUE / f"{name}.yaml")


def _from_file(path: Path) -> DeviceProfile:
    data = _merged(path, ())
    try:
        return DeviceProfile.model_validate(data)
    except ValidationError as error:
        raise ProfileError(f"{path}: {complaint(error, DeviceProfile)}") from error


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in seen:
        raise ProfileError(f"{path}: extends goes round in a circle; remove one of the extends")
    data = read_mapping(path, "a device profile", "fields", ProfileError)
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise ProfileError(f"{path}: extends: {parent!r} is not valid; expected the name or the file of a profile")
    own = data.get("provenance")
    entries = own if isinstance(own, Mapping) else {}
    # An inherited source says nothing about a number that this file replaces.
    if bare := uncovered(data, map(str, entries)):
        raise ProfileError(f"{path}: provenance: {bare[0]} has no entry in this file, which replaces that number")
    base = _merged(_parent_path(path, parent), (*seen, resolved))
    merged = _overlay(base, data)
    inherited = base.get("provenance")
    if isinstance(inherited, Mapping) and isinstance(own, Mapping | None):
        # A source outlives neither a more general one of this file nor the numbers it spoke of.
        kept = {key: entry for key, entry in inherited.items() if not _replaced(str(key), entries)}
        speaks = {key: entry for key, entry in kept.items() if speaks_of_something(merged, str(key))}
        merged["provenance"] = {**speaks, **entries}
    return merged


def _parent_path(path: Path, parent: str) -> Path:
    if Path(parent).suffix in {".yaml", ".yml"}:
        return path.parent / parent
    if parent not in profile_ids():
        raise ProfileError(f"{path}: extends: {_unknown(parent)}")
    return CATALOGUE / f"{parent}.yaml"


def _replaced(key: str, entries: Mapping[Any, Any]) -> bool:
    return any(key.startswith(f"{entry}.") for entry in entries)


def _overlay(base: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` over `base`: mappings merge, everything else (lists too) is replaced."""
    merged = dict(base)
    for key, value in data.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, Mapping)
        merged[key] = _overlay(below, value) if both and below is not None else value
    return merged


def _unknown(name: str) -> str:
    known = profile_ids()
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f"no device profile is named {name!r}; {hint}"
