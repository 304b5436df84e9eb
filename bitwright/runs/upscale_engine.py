"""The engine of an upscaling job: found in a run, loaded for the shape of its tiles, and tried to see what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note
from bitwright.runs.built import ENGINE
from bitwright.runs.curve import CHOSEN
from bitwright.runs.resident import ResidentPeak, release_free_memory, resident_bytes
from bitwright.runs.upscale_inputs import Item
from bitwright.runs.upscale_picture import enlarge
from bitwright.runs.upscale_request import GIB, UpscaleRequest
from bitwright.runs.upscale_tiles import Tiling, fitted, least_tile, picture_bytes, tile_shapes
from deploy.activation_memory import peak_activation_bytes
from deploy.engine import EngineSpec
from deploy.engines import SPEC_FILE, load_engine
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
    """What the engine takes and gives; UsageError for one that is not known to enlarge pictures."""
    if spec.super_resolution is None:
        raise UsageError(
            f"the engine in {folder} does not say that it enlarges pictures: it is for another task, or an earlier "
            "version built it; in that case build it again with `bitwright compress`"
        )
    io = spec.super_resolution
    if spec.shapes is None:
        return io
    return replace(io, min_input_side=max(io.min_input_side, spec.shapes.sides[0]))


@dataclass(frozen=True)
class Ready:
    """An engine that has run one tile. `estimate`: resident bytes that the job will need at most."""

    predict: Predict
    tiling: Tiling
    estimate: int


def make_ready(
    request: UpscaleRequest,
    folder: Path,
    spec: EngineSpec,
    io: SRFormat,
    items: Sequence[Item],
    tiling: Tiling,
    *,
    begun: bool,
) -> Ready:
    """Load the engine for the tiles and try it, with smaller tiles until the memory limit is kept.

    `begun`: the folder of results holds some of such tiles. UsageError where no tile keeps the limit, or not the one
    that was asked for or begun with.
    """
    fixed = begun or request.tile is not None
    if not fixed:
        tiling = _suggested(request, folder, spec, io, items, tiling)
    while True:
        tried = _tried(request, folder, io, items, tiling)
        beside = _beside(items, tiling, io)
        estimate = tried.peak + beside
        if estimate <= request.memory:
            return Ready(tried.predict, tiling, estimate)
        ratio = (request.memory - tried.loaded - beside) / max(tried.peak - tried.loaded, 1)
        least = least_tile(io, tiling.overlap)
        smaller = None if fixed else tiling.smaller(min(max(ratio, 0.0), 1.0), least)
        if smaller is None:
            advice = "or a smaller --tile" if fixed else "or smaller pictures"
            if begun:
                advice = f"or another --out: {request.out} was begun with tiles of {tiling.tile}"
            raise UsageError(
                f"--memory {request.memory / GIB:.2f}G is too little: tiles of {tiling.tile} pixels need about "
                f"{estimate / GIB:.2f}G, of which {tried.loaded / GIB:.2f}G is the process with its engine loaded; "
                f"give more, {advice}"
            )
        note(f"tiles of {tiling.tile} pixels would need {estimate / GIB:.2f} GiB; trying {smaller.tile}")
        tiling = smaller
        del tried
        release_free_memory()


def _suggested(
    request: UpscaleRequest, folder: Path, spec: EngineSpec, io: SRFormat, items: Sequence[Item], tiling: Tiling
) -> Tiling:
    """Smaller tiles where the activations of these suggest that the limit would not be kept, once loaded."""
    of_one = peak_activation_bytes(folder / spec.onnx, (1, io.channels, tiling.tile, tiling.tile))
    if of_one is None:
        return tiling
    activations, beside = of_one * tiling.batch, _beside(items, tiling, io)
    if fitted(tiling, io, 2 * activations, request.memory - resident_bytes() - beside) == tiling:
        # Far from the limit, the engine need not be loaded once more to see what it takes.
        return tiling
    # With the smallest tile: LiteRT takes the memory of all activations as it loads, torch loads as it runs.
    side = min(least_tile(io, tiling.overlap), tiling.tile)
    sample = np.zeros((tiling.batch, io.channels, side, side), np.float32)
    loaded = load_engine(folder, request.threads, input_shape=sample.shape)
    loaded.run(sample)
    free = request.memory - resident_bytes() - beside
    del loaded
    release_free_memory()
    return fitted(tiling, io, activations, free)


def _beside(items: Sequence[Item], tiling: Tiling, io: SRFormat) -> int:
    return max(picture_bytes(item, tiling, io.scale) for item in items)


@dataclass(frozen=True)
class Tried:
    """An engine that ran tiles; `loaded` and `peak` are resident bytes, before it did and at most while it did."""

    predict: Predict
    loaded: int
    peak: int


def _tried(request: UpscaleRequest, folder: Path, io: SRFormat, items: Sequence[Item], tiling: Tiling) -> Tried:
    """Load the engine for the most frequent shape of tile, and enlarge tiles with it.

    Twice, because allocators keep more after the second time; and the largest of the other shapes as well, for which a
    runtime may load the network anew.
    """
    shapes = tile_shapes(items, tiling)
    others = sorted(shapes[1:], key=lambda sides: sides[0] * sides[1])[-1:]
    wide = any(item.header.pixel_bytes > NARROW for item in items)
    with ResidentPeak() as peak:
        input_shape = (tiling.batch, io.channels, *shapes[0])
        predict = engine_predict(load_engine(folder, request.threads, input_shape=input_shape))
        loaded = resident_bytes()
        for sides in (shapes[0], shapes[0], *others):
            samples = np.zeros((*sides, 4), np.uint16 if wide else np.uint8)
            one = Picture(samples[:, :, :3], samples[:, :, 3], None)
            enlarge(one, predict, io, tiling, BytesIO(), lambda: None)
    return Tried(predict, loaded, peak.bytes)
