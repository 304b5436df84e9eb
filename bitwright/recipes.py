"""Recipes: a request as YAML, written by the flags and replayed without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_text
from bitwright.foundation.suggest import nearest
from bitwright.foundation.yaml_file import parse_yaml, read_mapping
from bitwright.runs.inputs import InputHashes
from bitwright.runs.request import CompressRequest

SCHEMA = 1
_PATHS = ("checkpoint", "data", "eval_data", "out", "table")


@dataclass(frozen=True)
class Recipe:
    """Settings of a request, not yet complete; `inputs` and `versions` where a run wrote the file."""

    settings: Mapping[str, Any]
    inputs: InputHashes | None = None
    versions: Mapping[str, str] | None = None


def dump_recipe(
    request: CompressRequest, inputs: InputHashes | None = None, versions: Mapping[str, str] | None = None
) -> str:
    """The YAML text of a request with every setting written out; paths are absolute, so that it can be moved."""
    settings = request.model_dump(mode="json", exclude={"out"} if request.out is None else None)
    for name in _PATHS:
        if settings.get(name) is not None:
            settings[name] = str(Path(settings[name]).absolute())
    if _is_file(request.device):
        settings["device"] = str(Path(request.device).absolute())
    document: dict[str, Any] = {"schema": SCHEMA, **settings}
    if inputs is not None:
        document["inputs"] = inputs.model_dump()
    if versions is not None:
        document["versions"] = dict(versions)
    header = f"# Replay with: bitwright {request.verb} --recipe <this file>\n"
    return header + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def save_recipe(path: Path, request: CompressRequest) -> None:
    """Write `request` to `path` as YAML."""
    write_text(path, dump_recipe(request))


def load_recipe(path: Path, kind: type[CompressRequest] = CompressRequest) -> Recipe:
    """Read a recipe, or the request.yaml of a run, for a request of `kind`. Its relative paths start at its own folder.

    UsageError, one line: unreadable file, YAML error with its line, or an unknown setting with the nearest name.
    """
    data = read_mapping(path, "a recipe", "settings", UsageError)
    schema = data.pop("schema", SCHEMA)
    if schema != SCHEMA:
        raise UsageError(
            f"{path}: schema {schema!r} is not known to this version of bitwright; it reads schema {SCHEMA}"
        )
    inputs, versions = data.pop("inputs", None), data.pop("versions", None)
    for name in data:
        _check_name(name, f"{path}: ", kind)
    if isinstance(data.get("input_size"), list):
        data["input_size"] = tuple(data["input_size"])
    for name in _PATHS:
        if isinstance(data.get(name), str):
            data[name] = path.parent / data[name]
    if isinstance(data.get("device"), str) and _is_file(data["device"]):
        data["device"] = str(path.parent / data["device"])
    if versions is not None and not isinstance(versions, Mapping):
        raise UsageError(f"{path}: versions: {versions!r} is not valid; expected a mapping of packages to versions")
    try:
        hashes = None if inputs is None else InputHashes.model_validate(inputs)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(("inputs", *map(str, first["loc"])))
        raise UsageError(f"{path}: {where}: {first['msg']}") from error
    return Recipe(data, hashes, versions)


def apply_settings(
    settings: Mapping[str, Any], assignments: Iterable[str], kind: type[CompressRequest] = CompressRequest
) -> dict[str, Any]:
    """`settings` with each "name=value" of `assignments` put over them; a value is read as YAML."""
    merged = dict(settings)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--set {assignment}: expected name=value, such as --set seed=1")
        _check_name(name, "--set: ", kind)
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {assignment}: the value is not valid YAML") from error
        merged[name] = tuple(value) if isinstance(value, list) else value
    return merged


def _check_name(name: str, where: str, kind: type[CompressRequest]) -> None:
    if name not in kind.model_fields:
        raise UsageError(f"{where}unknown setting {name!r}; {nearest(name, kind.model_fields)}")


def _is_file(device: str) -> bool:
    return Path(device).suffix in {".yaml", ".yml"} or len(Path(device).parts) > 1
