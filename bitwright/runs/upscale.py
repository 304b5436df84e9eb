"""Upscaling: pictures through the engine of a run, into a folder that a second call completes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bitwright.foundation import progress
from bitwright.foundation.errors import DataError, OutputError
from bitwright.foundation.files import sha256_file
from bitwright.foundation.progress import note
from bitwright.runs.resident import ResidentPeak
from bitwright.runs.upscale_engine import Ready, find_engine, make_ready, picture_format
from bitwright.runs.upscale_inputs import Done, Inputs, Item, find_inputs, output_folder
from bitwright.runs.upscale_picture import write_enlarged
from bitwright.runs.upscale_request import GIB, UpscaleRequest
from bitwright.runs.upscale_result import Memory, SkippedPicture, Upscaled, UpscaleSummary
from bitwright.runs.upscale_tiles import choose, count_tiles
from deploy.engines import read_spec
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.images import Skipped, UnreadableImageError, note_skipped, nothing_usable
from workloads.super_resolution.picture import read_picture_file

PURPOSE = "upscaling"


def upscale(request: UpscaleRequest) -> UpscaleSummary:
    """Enlarge a picture, or all pictures of a folder, with the engine of a run.

    Pictures that are done are not done again; each is written as a whole or not at all. Damaged ones are named and
    skipped. Raises DataError where none can be used, UsageError for an engine or a limit that will not do, OutputError
    for results that something else has made.
    """
    folder = find_engine(request.run)
    spec = read_spec(folder)
    io = picture_format(folder, spec)
    tiling_of = partial(choose, io, overlap=request.overlap, batch=request.batch, shapes=spec.shapes)
    tiling = tiling_of(tile=request.tile)
    inputs = find_inputs(request.source, request.out, io.min_input_side)
    note_skipped(list(inputs.skipped), request.source, PURPOSE)
    if not inputs.items:
        raise _nothing(inputs, request.source)
    with output_folder(inputs) as out:
        overlap = None if tiling.exact else tiling.overlap
        done = Done(out, {"engine_sha256": spec.artefact_sha256, "overlap": overlap}) if inputs.resumable else None
        begun = None
        if done is not None and not tiling.exact and request.tile is None:
            # A call with another --memory must not mix tiles that show.
            begun = done.tile_before(inputs.items)
            tiling = tiling if begun is None else tiling_of(tile=begun)
        pending = _pending(inputs, done, None if tiling.exact else request.tile or begun, request.overwrite)
        already = tuple(item.name for item in inputs.items if item not in pending)
        if already:
            note(f"{len(already)} of {len(inputs.items)} pictures have been done before")
        made: list[Upscaled] = []
        skipped = list(inputs.skipped)
        ready: Ready | None = None
        with ResidentPeak() as peak:
            if pending:
                ready = make_ready(request, folder, spec, io, pending, tiling, begun=begun is not None)
                _tell(ready, request, io, pending)
                made = _work(pending, ready, io, out, done, skipped)
    if not made and not already:
        raise _nothing(Inputs(out, (), tuple(skipped), inputs.many, inputs.resumable), request.source)
    return UpscaleSummary(
        engine=str(folder),
        out=str(request.out),
        scale=io.scale,
        pictures=tuple(made),
        already_done=already,
        skipped=tuple(SkippedPicture(name=one.name, reason=one.reason) for one in skipped),
        tiling=None if ready is None else ready.tiling,
        memory=None if ready is None else Memory(limit=request.memory, estimate=ready.estimate, peak=peak.bytes),
    )


def _nothing(inputs: Inputs, source: Path) -> DataError:
    if not inputs.skipped:
        return DataError(f"{source} holds no picture but those in the folder of results; give another folder")
    if inputs.many:
        return nothing_usable(list(inputs.skipped), source, PURPOSE)
    return UnreadableImageError(source, inputs.skipped[0].reason)


def _pending(inputs: Inputs, done: Done | None, tile: int | None, overwrite: bool) -> list[Item]:
    if done is not None:
        return done.pending(inputs.items, tile, overwrite)
    there = next((inputs.folder / item.target for item in inputs.items if (inputs.folder / item.target).exists()), None)
    if there is not None and not overwrite:
        raise OutputError(f"{there} is there already; choose another --out, or --overwrite to replace it")
    return list(inputs.items)


def _tell(ready: Ready, request: UpscaleRequest, io: SRFormat, items: Sequence[Item]) -> None:
    tiling, tiles = ready.tiling, count_tiles(items, ready.tiling)
    size = f"up to {tiling.tile}x{tiling.tile} pixels, {tiling.overlap} of them overlap on each side"
    needed = f"about {ready.estimate / GIB:.2f} GiB resident, limit {request.memory / GIB:.2f} GiB"
    note(f"{tiles} {'tile' if tiles == 1 else 'tiles'} of {size}: {needed}")
    if tiles > len(items) and not tiling.exact:
        why = (
            "the network sees the whole picture (it has no finite halo)"
            if io.halo is None
            else f"the network sees {io.halo} pixels around"
        )
        fading = f"; tiles are cross-faded over {2 * tiling.fade} pixels" if tiling.fade else ""
        note(f"{why}, so the result depends on --tile {tiling.tile} and --overlap {tiling.overlap}{fading}")


def _work(
    items: Sequence[Item], ready: Ready, io: SRFormat, out: Path, done: Done | None, skipped: list[Skipped]
) -> list[Upscaled]:
    reporter = progress.current()
    made: list[Upscaled] = []
    with ExitStack() as ending:
        handle = reporter.start("upscaling, tiles", count_tiles(items, ready.tiling))
        ending.callback(reporter.stop, handle)
        for item in items:
            begun = time.monotonic()
            try:
                picture = read_picture_file(item.path)
            except UnreadableImageError as error:
                skipped.append(Skipped(item.name, error.reason))
                note_skipped(skipped[-1:], item.path.parent, PURPOSE)
                reporter.advance(handle, count_tiles([item], ready.tiling))
                continue
            for changed in picture.notes:
                note(f"{item.name}: {changed}")
            source = sha256_file(item.path)
            target = out / item.target
            seams = write_enlarged(picture, ready.predict, io, ready.tiling, target, lambda: reporter.advance(handle))
            seconds = time.monotonic() - begun
            if done is not None:
                done.add(item, source, None if ready.tiling.exact else ready.tiling.tile, seconds)
            made.append(
                Upscaled(
                    name=item.name,
                    output=str(target),
                    height=picture.height * io.scale,
                    width=picture.width * io.scale,
                    seconds=round(seconds, 3),
                    seam_largest=seams.largest if seams.count else None,
                    seam_mean=seams.mean,
                    notes=picture.notes + (_ALPHA if picture.alpha is not None else ()),
                )
            )
    return made


_ALPHA = ("transparency was enlarged by bicubic, not by the network",)
