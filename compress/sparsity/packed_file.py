"""A safetensors file in which N:M weights are packed.

Layout, version 1. The metadata entry `bitwright` is JSON: `format` "bitwright-nm-1" and `weights`, which gives for each
packed weight its `shape`, `pattern` ("N:M"), `kind` and `groups` of the layer, and `layout` of the places. A packed
weight `w` is two tensors: `w/values`, the kept values in the order of the canonical rows, and `w/index`, uint8, a
stream of bits, lowest first, padded to a byte at its end. Every other tensor is stored as it is, under its own name.
`metadata` of the header holds what the caller wants to keep, as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitwright.foundation.errors import CheckpointError, UsageError
from bitwright.foundation.files import atomic_path
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import LayerKind, WeightLayout
from compress.sparsity.packing import Packed, pack, unpack
from compress.sparsity.storage import Layout

METADATA = "bitwright"
FORMAT = "bitwright-nm-1"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...]
    pattern: str
    kind: LayerKind
    groups: int
    layout: Layout

    def packed(self, values: Tensor, index: Tensor) -> Packed:
        """The weight that two tensors of the file hold; UsageError for what is no pattern."""
        pattern, weight_layout = Sparsity.parse(self.pattern), WeightLayout(self.kind, self.groups)
        return Packed(values, index, self.shape, pattern, weight_layout, self.layout)


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    weights: dict[str, _Entry]
    metadata: dict[str, str] = {}


def save_packed(
    path: Path, tensors: Mapping[str, Tensor], sparse: Mapping[str, tuple[Sparsity, WeightLayout]],
    layout: Layout | None = None, metadata: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write `tensors`; those of `sparse` are packed, by their pattern. UsageError for one that breaks its pattern.

    `layout`: of all places; by default the one with the fewest bits for each weight. `metadata` is kept beside.
    """
    stored: dict[str, Tensor] = {}
    entries: dict[str, _Entry] = {}
    for name, value in tensors.items():
        if name not in sparse:
            stored[name] = value.detach().contiguous().clone()
            continue
        pattern, weight_layout = sparse[name]
        try:
            packed = pack(value, pattern, weight_layout, layout)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
        stored[f"{name}/values"], stored[f"{name}/index"] = packed.values, packed.index
        entries[name] = _Entry(
            shape=packed.shape, pattern=str(pattern), kind=weight_layout.kind, groups=weight_layout.groups,
            layout=packed.layout,
        )  # fmt: skip
    header = _Header(format=FORMAT, weights=entries, metadata=dict(metadata or {})).model_dump(mode="json")
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata={METADATA: json.dumps(header)})


def packed_metadata(path: Path) -> dict[str, str]:
    """What was kept beside the tensors."""
    return _read(path)[0].metadata


def load_packed(path: Path) -> dict[str, Tensor]:
    """All tensors of a file that `save_packed` wrote, packed ones in their full shape.

    CheckpointError for another file, and for one that is incomplete or damaged.
    """
    header, stored = _read(path)
    result = {}
    for name, entry in header.weights.items():
        parts = (f"{name}/values", f"{name}/index")
        missing = [part for part in parts if part not in stored]
        if missing:
            raise CheckpointError(f"{path} lacks the tensor {missing[0]}; the file is incomplete, copy it again")
        values, index = (stored.pop(part) for part in parts)
        try:
            result[name] = unpack(entry.packed(values, index))
        except (UsageError, RuntimeError, ValueError, IndexError, ArithmeticError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path}: the packed weight {name} is damaged: {reason}; copy the file again"
            ) from error
    return result | stored


def _read(path: Path) -> tuple[_Header, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = _Header.model_validate_json((file.metadata() or {}).get(METADATA, "{}"))
            stored: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValidationError, OSError) as error:
        raise CheckpointError(f"{path} is not a packed N:M file of this project") from error
    if header.format != FORMAT:
        raise CheckpointError(f"{path} has format {header.format!r}; this version reads {FORMAT!r}")
    return header, stored
