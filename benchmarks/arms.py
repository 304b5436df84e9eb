"""Arm: one engine of a comparison, with its quality and what it executes; kept on disk so that a job can go on."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from benchmarks.common import versions
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_json, write_text
from bitwright.foundation.progress import note
from deploy.engine import Engine
from deploy.engines.exported_graph import computes_layer
from deploy.latency.protocol import DEFAULT_LOADER
from deploy.verify import engine_predict
from workloads.workload import LoadedModel

TEST_SETS = ("Set5", "Set14")
RECORD = "arm.json"
SETTINGS = "settings.json"


class Score(BaseModel):
    """Quality of an engine on one test set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    per_image: dict[str, float]


class ArmRecord(BaseModel):
    """A finished arm. `engine` is the folder of its `engine.json`, relative to the folder of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    arm: str
    engine: str
    loader: str
    preparation_s: float = Field(description="wall seconds from the checkpoint to the engine, without any proof of it")
    int8_layers: int = Field(description="convolutions and matrix products that the engine executes on integers")
    layers: int
    quality: dict[str, Score]
    details: dict[str, JsonValue] = Field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """An engine that was built, before it is evaluated; layer counts None: to be read from the engine."""

    engine: Path
    preparation_s: float
    loader: str = DEFAULT_LOADER
    layers: tuple[int, int] | None = None
    details: dict[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """A name and the function that builds its engine somewhere below the given folder."""

    name: str
    prepare: Callable[[Path], Prepared]


@dataclass(frozen=True)
class Network:
    """A checkpoint with its data, and the folder that all its arms are kept in."""

    name: str
    checkpoint: Path
    loaded: LoadedModel
    train: Path
    test: Path
    work: Path
    images: int | None = None


def load_arm_engine(loader: str, folder: Path, threads: int) -> Engine:
    """Load an engine by the `module:function` that its worker process will use."""
    module, _, function = loader.partition(":")
    engine = getattr(importlib.import_module(module), function)(folder, threads)
    if not isinstance(engine, Engine):
        raise UsageError(f"engine loader {loader!r} returned {type(engine).__name__}, not an Engine")
    return engine


def count_layers(engine: Engine) -> tuple[int, int]:
    """(layers executed on integers, all layers) of the graph that a runtime executes."""
    precisions = [node.precision for node in engine.executed_nodes() if computes_layer(node.op)]
    return precisions.count("int8"), len(precisions)


def claim(network: Network, decisive: Mapping[str, JsonValue]) -> None:
    """Stamp the folder of a network with what decides its arms; UsageError where another job's arms are in it."""
    path = network.work / SETTINGS
    wanted = json.loads(json.dumps({**decisive, "checkpoint": network.loaded.sha256, "versions": versions()}))
    if path.is_file():
        before = json.loads(path.read_bytes())
        different = sorted(key for key in {*before, *wanted} if before.get(key) != wanted.get(key))
        if different:
            raise UsageError(
                f"{network.work} holds arms of another job ({', '.join(different)} differ); remove it, or choose "
                "another --out"
            )
    write_json(path, wanted)


def finished(network: Network, arm: Arm, sets: Sequence[str] = TEST_SETS) -> ArmRecord:
    """The record of an arm: read if it is there, else made, evaluated on the test sets `sets`, and written."""
    folder = network.work / slug(arm.name)
    path = folder / RECORD
    if path.is_file():
        note(f"{network.name}, {arm.name}: done before")
        return ArmRecord.model_validate_json(path.read_bytes())
    note(f"{network.name}, {arm.name}: preparing")
    prepared = arm.prepare(folder)
    engine = load_arm_engine(prepared.loader, prepared.engine, os.cpu_count() or 1)
    done, total = prepared.layers if prepared.layers is not None else count_layers(engine)
    record = ArmRecord(
        arm=arm.name,
        engine=str(prepared.engine.relative_to(network.work)),
        loader=prepared.loader,
        preparation_s=prepared.preparation_s,
        int8_layers=done,
        layers=total,
        quality={name: score(network, engine, network.test / name) for name in sets},
        details=prepared.details,
    )
    write_text(path, record.model_dump_json(indent=1) + "\n")
    return record


def score(network: Network, engine: Engine, folder: Path) -> Score:
    """The workload's metric of an engine on the pictures of a folder."""
    workload = network.loaded.workload
    result = workload.evaluate(engine_predict(engine), workload.samples(folder, network.images))
    return Score(mean=result.mean, per_image=result.per_sample)


def slug(name: str) -> str:
    """A folder name for an arm."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split())
