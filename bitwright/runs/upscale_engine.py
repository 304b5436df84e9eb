"""The engine of an upscaling job: found in a run, loaded for the shape of its tiles, and tried to see what it takes."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note
from bitwright.runs.built import ENGINE
from bitwright.runs.curve import CHOSEN
from bitwright.runs.resident import ResidentPeak, resident_bytes
from bitwright.runs.upscale_inputs import Item
from bitwright.runs.upscale_picture import enlarge
from bitwright.runs.upscale_request import GIB, UpscaleRequest
from bitwright.runs.upscale_tiles import Tiling, choose, fitted, least_tile, picture_bytes, tile_shapes
from deploy.activation_memory import peak_activation_bytes
from deploy.engine import EngineSpec
from deploy.engines import SPEC_FILE, load_engine, read_spec
from deploy.verify import engine_predict
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.picture import NARROW, Picture
from workloads.workload import Predict


def find_engine(run: Path) -> Path:
    """The engine folder of a run, of a curve's pick, or `run` itself; UsageError where there is none."""
    if not run.is_dir():
        raise UsageError(f"{run} is not a folder; give the run folder of `bitwright compress`, or an engine folder")
    for folder in (run, run / ENGINE, run / CHOSEN / ENGINE):
        if (folder / SPEC_FILE).is_file():
            return folder
    raise UsageError(
        f"{run} holds no engine; finish the run with --resume, pick a point of a curve, or give an engine folder"
    )


def picture_format(folder: Path, spec: EngineSpec) -> SRFormat:
    """What the engine's network takes and gives; UsageError for one that is not known to enlarge pictures."""
    if spec.super_resolution is None:
        raise UsageError(
            f"the engine in {folder} does not say that it enlarges pictures: it is for another task, or an earlier "
            "version built it; in that case build it again with `bitwright compress`"
        )
    return spec.super_resolution


@dataclass(frozen=True)
class Ready:
    """An engine that has run one tile. `estimate`: resident bytes that the job will need at most."""

    predict: Predict
    tiling: Tiling
    estimate: int


def make_ready(request: UpscaleRequest, folder: Path, io: SRFormat, items: Sequence[Item]) -> Ready:
    """Choose the tiles, load the engine for them and try it, with smaller tiles until the memory limit is kept.

    UsageError where no tile, or not the one that was asked for, keeps it.
    """
    tiling = choose(io, tile=request.tile, overlap=request.overlap, batch=request.batch)
    base = resident_bytes()
    if request.tile is None:
        shape = (1, io.channels, tiling.tile, tiling.tile)
        activations = peak_activation_bytes(folder / read_spec(folder).artefact, shape)
        tiling = fitted(tiling, io, activations, request.memory - base - _beside(items, tiling, io))
    while True:
        predict, peak = _tried(request, folder, io, items, tiling)
        beside = _beside(items, tiling, io)
        estimate = peak + beside
        if estimate <= request.memory:
            return Ready(predict, tiling, estimate)
        ratio = (request.memory - base - beside) / max(peak - base, 1)
        least = least_tile(io, tiling.overlap)
        smaller = tiling.smaller(min(max(ratio, 0.0), 1.0), least) if request.tile is None else None
        if smaller is None:
            advice = "or a smaller --tile" if request.tile is not None else "or smaller pictures"
            raise UsageError(
                f"--memory {request.memory / GIB:.2f}G is too little: tiles of {tiling.tile} pixels need about "
                f"{estimate / GIB:.2f}G, of which {base / GIB:.2f}G is the process itself; give more, {advice}"
            )
        note(f"tiles of {tiling.tile} pixels would need {estimate / GIB:.2f} GiB; trying {smaller.tile}")
        tiling = smaller
        del predict
        gc.collect()


def _beside(items: Sequence[Item], tiling: Tiling, io: SRFormat) -> int:
    return max(picture_bytes(item, tiling, io.scale) for item in items)


def _tried(
    request: UpscaleRequest, folder: Path, io: SRFormat, items: Sequence[Item], tiling: Tiling
) -> tuple[Predict, int]:
    """The engine, loaded for the most frequent shape of tile, and the peak of memory while it enlarged tiles.

    Twice, because allocators keep more after the second time; and the largest of the other shapes as well, for which a
    runtime may load the network anew.
    """
    shapes = tile_shapes(items, tiling)
    others = sorted(shapes[1:], key=lambda sides: sides[0] * sides[1])[-1:]
    wide = any(item.header.pixel_bytes > NARROW for item in items)
    with ResidentPeak() as peak:
        input_shape = (tiling.batch, io.channels, *shapes[0])
        predict = engine_predict(load_engine(folder, request.threads, input_shape=input_shape))
        for sides in (shapes[0], shapes[0], *others):
            samples = np.zeros((*sides, 4), np.uint16 if wide else np.uint8)
            one = Picture(samples[:, :, :3], samples[:, :, 3], None)
            enlarge(one, predict, io, tiling, BytesIO(), lambda: None)
    return predict, peak.bytes
