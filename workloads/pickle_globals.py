"""Names of the callables that a pickled checkpoint would import, read from its opcodes without running them."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

HARMLESS_MODULES = ("torch._utils", "torch.storage", "torch.nn.parameter")
HARMLESS = {"collections.OrderedDict", "_codecs.encode", "torch.Size", "torch.device", "torch.Tensor"}
STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"}
PUTS = {"MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"}
GETS = {"BINGET", "LONG_BINGET", "GET"}
LEGACY_PICKLES = 5
"""A file from before the zip format starts with five pickles: magic number, version, system, object, storage keys."""


def unsafe_globals(path: Path) -> list[str]:
    """Sorted `module.name`s that the checkpoint's pickles refer to and that plain weights do not need."""
    names: set[str] = set()
    for data in _pickles(path):
        names |= _globals(data)
    return sorted(name for name in names if not _is_harmless(name))


def _pickles(path: Path) -> list[bytes]:
    if not zipfile.is_zipfile(path):
        return [path.read_bytes()]
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]


def _globals(data: bytes) -> set[str]:
    stream = io.BytesIO(data)
    found: set[str] = set()
    for _ in range(LEGACY_PICKLES):
        try:
            found.update(_globals_of_one(stream))
        except ValueError:
            break
    return found


def _globals_of_one(stream: io.BytesIO) -> Iterator[str]:
    """Names in the next pickle of the stream; ValueError where none follows."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    top: str | None = None
    memoized = 0
    for opcode, argument, _position in pickletools.genops(stream):
        if opcode.name in PUTS:
            if top is not None:
                memo[memoized if opcode.name == "MEMOIZE" else int(str(argument))] = top
            memoized += 1
            continue
        top = str(argument) if opcode.name in STRINGS else None
        if opcode.name in GETS:
            top = memo.get(int(str(argument)))
        if top is not None:
            strings.append(top)
        elif opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
            yield f"{strings[-2]}.{strings[-1]}"


def _is_harmless(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if name in HARMLESS or module in HARMLESS_MODULES:
        return True
    return module == "torch" and (
        attribute.endswith("Storage") or isinstance(getattr(torch, attribute, None), torch.dtype)
    )
