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
from bitwright.runs.inputs import InputHashes
from bitwright.runs.request import CompressRequest

SCHEMA = 1
_LARGEST_FILE_BYTES = 1 << 20
_PATHS = ("checkpoint", "data", "eval_data", "out")
_HEADER = "# Replay with: bitwright compress --recipe <this file>\n"


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
    return _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def save_recipe(path: Path, request: CompressRequest) -> None:
    """Write `request` to `path` as YAML."""
    write_text(path, dump_recipe(request))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe, or the request.yaml of a run. Relative paths in it start at its own folder.

    UsageError, one line: unreadable file, YAML error with its line, or an unknown setting with the nearest name.
    """
    data = _read(path)
    schema = data.pop("schema", SCHEMA)
    if schema != SCHEMA:
        raise UsageError(
            f"{path}: schema {schema!r} is not known to this version of bitwright; it reads schema {SCHEMA}"
        )
    inputs, versions = data.pop("inputs", None), data.pop("versions", None)
    for name in data:
        _check_name(name, f"{path}: ")
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


def apply_settings(settings: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """`settings` with each "name=value" of `assignments` put over them; a value is read as YAML."""
    merged = dict(settings)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--set {assignment}: expected name=value, such as --set seed=1")
        _check_name(name, "--set: ")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {assignment}: the value is not valid YAML") from error
        merged[name] = tuple(value) if isinstance(value, list) else value
    return merged


def _check_name(name: str, where: str) -> None:
    if name not in CompressRequest.model_fields:
        raise UsageError(f"{where}unknown setting {name!r}; {nearest(name, CompressRequest.model_fields)}")


def _is_file(device: str) -> bool:
    return Path(device).suffix in {".yaml", ".yml"} or len(Path(device).parts) > 1


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise UsageError(f"{path}: larger than {_LARGEST_FILE_BYTES >> 20} MiB; this is not a recipe")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise UsageError(f"{path}:{line} not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path}: a recipe is a mapping of settings, this file holds a {type(data).__name__}")
    return {str(key): value for key, value in data.items()}
