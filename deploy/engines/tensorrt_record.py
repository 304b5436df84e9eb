"""BuildRecord: what TensorRT's builder told of the engine that it made, kept beside the engine.

An engine can be inspected only where it can be loaded, which takes a GPU. The builder logs the same facts on any
machine: at detailed verbosity every layer of the engine with the types of its tensors and the exported nodes in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitwright.foundation.errors import UsageError
from deploy.engine import SparseTactics

RECORD_FILE = "build.json"

_LAYER = re.compile(
    r"Name: (?P<name>.*), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>.*)\], Constants: \[(?P<constants>.*)\], "
    r"Outputs: \[(?P<outputs>.*)\], TacticName: (?P<tactic>.*), StreamId: -?\d+, Metadata: ?(?P<metadata>.*)"
)
_TYPE = re.compile(r"Datatype: (\w+)")
_ORIGIN = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\[\s]|$)")
_FORMAT = re.compile(r"\b(Int8|Int4|FP8|FP16|BF16|FP32|Half|Float|BFloat16|Int32)\b", re.IGNORECASE)
_ELIGIBLE = re.compile(r"\(Sparsity\) (?:Found (\d+) layer\(s\) eligible to use sparse tactics|Layers eligible for sparse math)(?:: *(.*))?")  # fmt: skip  # noqa: E501
_PICKED = re.compile(r"\(Sparsity\) (?:Chose (\d+) layer\(s\) using sparse tactics|TRT inference plan picked sparse implementation for layers)(?:: *(.*))?")  # fmt: skip  # noqa: E501


class BuiltLayer(BaseModel):
    """One layer of an engine. `inputs`, `constants`, `outputs`: element types in TensorRT's words, such as Int8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    tactic: str
    origins: tuple[str, ...] = Field(description="names of the exported nodes that it computes or takes part in")


class BuildRecord(BaseModel):
    """The layers of one engine, and what its builder told of structured sparsity (None: nothing)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine_sha256: str
    sparse_weights: bool = Field(description="whether the builder was allowed sparse kernels")
    sparse: SparseTactics | None
    layers: tuple[BuiltLayer, ...]

    @staticmethod
    def read(folder: Path, engine_sha256: str, record_sha256: str | None) -> BuildRecord:
        """The record beside an engine with the hashes of its stamp.

        UsageError when it is absent, was changed, is damaged or is that of another engine.
        """
        path = folder / RECORD_FILE
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != record_sha256:
                raise UsageError(f"{path} is not the record that its engine was stamped with; rebuild the engine")
            record = BuildRecord.model_validate_json(content)
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror}); rebuild the engine") from error
        except ValidationError as error:
            raise UsageError(f"{path} is damaged: {error.errors()[0]['msg']}; rebuild the engine") from error
        if record.engine_sha256 != engine_sha256:
            raise UsageError(f"{path} is not the record of the engine beside it; rebuild the engine")
        return record


def layers_in_log(lines: Iterable[str]) -> tuple[BuiltLayer, ...]:
    """The layers that a builder listed at detailed verbosity; empty where it did not."""
    matches = (_LAYER.fullmatch(line) for text in lines for line in text.split("\n"))
    return tuple(
        BuiltLayer(
            name=found["name"],
            kind=found["kind"],
            inputs=tuple(_TYPE.findall(found["inputs"])),
            constants=tuple(_TYPE.findall(found["constants"])),
            outputs=tuple(_TYPE.findall(found["outputs"])),
            tactic=found["tactic"],
            origins=tuple(_ORIGIN.findall(found["metadata"])),
        )
        for found in matches
        if found is not None
    )


def layers_in_json(text: str) -> tuple[BuiltLayer, ...]:
    """The layers in the JSON of an engine inspector, of an engine that was built at detailed verbosity."""
    return tuple(_layer(entry) for entry in json.loads(text).get("Layers", ()) if isinstance(entry, dict))


def _layer(entry: dict[str, Any]) -> BuiltLayer:
    weights = entry.get("Weights", {}).get("Type")
    constants = _types(entry.get("Constants", ()))
    return BuiltLayer(
        name=entry["Name"],
        kind=entry.get("LayerType", ""),
        inputs=_types(entry.get("Inputs", ())),
        constants=(weights, *constants) if weights else constants,
        outputs=_types(entry.get("Outputs", ())),
        tactic=entry.get("TacticName", ""),
        origins=tuple(_ORIGIN.findall(entry.get("Metadata", ""))),
    )


def _types(tensors: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """Element types of an inspector's tensors; older versions tell them only inside the name of the format."""
    found = []
    for tensor in tensors:
        named = _FORMAT.search(str(tensor.get("Datatype") or tensor.get("Format/Datatype", "")))
        found.append(named[1] if named else "")
    return tuple(found)


def sparse_tactics_in_log(lines: Iterable[str]) -> SparseTactics | None:
    """The builder's last lines on structured sparsity, in the wording of any version; None without them."""
    eligible = picked = None
    for line in lines:
        eligible = _ELIGIBLE.search(line) or eligible
        picked = _PICKED.search(line) or picked
    if eligible is None or picked is None:
        return None
    candidates, chosen = _named(eligible), _named(picked)
    return SparseTactics(
        eligible=int(eligible[1] or len(candidates)),
        picked=int(picked[1] or len(chosen)),
        eligible_layers=candidates,
        picked_layers=chosen,
    )


def _named(found: re.Match[str]) -> tuple[str, ...]:
    return tuple(name.strip() for name in (found[2] or "").split(",") if name.strip())
