"""A safetensors file packed as a whole and restored as it was, tensors and metadata alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitwright.foundation.files import atomic_path
from compress.nm_pattern import Sparsity
from compress.sparsity.layouts import WeightLayout
from compress.sparsity.packed_file import load_packed, packed_metadata, save_packed


def pack_model(source: Path, target: Path, sparse: Mapping[str, tuple[Sparsity, WeightLayout]]) -> None:
    """Pack the weights of a saved `CompressedModel`, integers or float, whose names are in `sparse`."""
    with safe_open(source, framework="pt") as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    stored = {}
    for name, form in sparse.items():
        key = f"weight/{name}/integers"
        stored[key if key in tensors else f"float/{name}"] = form
    save_packed(target, tensors, {k: form for k, form in stored.items() if k in tensors}, metadata=metadata)


def unpack_model(source: Path, target: Path) -> None:
    """Write the file that `pack_model` packed."""
    with atomic_path(target) as temporary:
        save_file(load_packed(source), temporary, metadata=packed_metadata(source) or None)
