"""Manifest: what a bundle holds and how its runner measures; its hash is the bundle's name."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation.version import VERSION
from deploy.engine import EngineSpec
from deploy.latency.policies import LoadGate, WarmUp


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Protocol(_Part):
    """How engines are timed; the names are those of `deploy.latency.measure`."""

    threads: int = Field(ge=1)
    seed: int
    min_seconds: float = Field(ge=0)
    min_samples: int = Field(ge=1)
    max_seconds: float = Field(ge=0)
    percentiles: tuple[float, ...]
    block_seconds: float = Field(gt=0)
    timeout_seconds: float = Field(default=300.0, gt=0)
    energy_seconds: float | None = Field(default=None, gt=0)
    cuda_graph: bool = Field(default=False, exclude_if=lambda asked: not asked)
    warm_up: WarmUp = WarmUp()
    gate: LoadGate = LoadGate()


class Arm(_Part):
    """One engine of a bundle: its artefact, and its output on the input where it was bundled (.npy).

    `executed`: the file in which its runner tells what the runtime executes there; None where that is not asked for.
    `simulated`: the output is that of the network in torch, because the engine does not run where it was bundled.
    """

    name: str
    spec: EngineSpec
    file: str
    output: str
    executed: str | None = Field(default=None, exclude_if=lambda name: name is None)
    simulated: bool = Field(default=False, exclude_if=lambda so: not so)


class Manifest(_Part):
    """Everything in a bundle. `files` maps each name in the archive, this one left out, to its SHA-256."""

    schema_version: Literal[1] = 1
    bitwright_version: str = VERSION
    run: str = Field(description="run folder that the bundle was made from")
    input: str
    input_shape: tuple[int, int, int, int]
    arms: tuple[Arm, ...] = Field(min_length=1)
    protocol: Protocol
    files: dict[str, str]

    def to_bytes(self) -> bytes:
        """The content of `manifest.json`."""
        return self.model_dump_json(indent=1).encode() + b"\n"

    @property
    def digest(self) -> str:
        """Hex SHA-256 of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()
