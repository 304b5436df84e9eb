"""How pictures are cut for an engine, and the memory that this takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation.errors import UsageError
from bitwright.runs.upscale_inputs import Item
from deploy.engine import ShapeRange
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.tiling import Window, windows

LEAST_TILE = 64
SHARE_KEPT = 0.8
"""Part of a tile's pixels that shall be kept; the rest is halo, which is computed more than once."""
LARGEST_TILE = 512
LARGEST_INEXACT_TILE = 1024
"""Larger than where tiles are exact, because the result comes closer to that of the whole picture."""
INEXACT_OVERLAP = 32
STEP = 32
_SPARE = 2.2
"""Memory of an engine over that of the activations it needs at least; only picks the tile that is then measured."""
_WRITER_BYTES = 16 << 20


class Tiling(BaseModel):
    """How every picture of a job is cut, in pixels of the input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile: int = Field(description="side of a tile, overlap included")
    overlap: int = Field(description="pixels of its surroundings that a tile reads on each side")
    batch: int
    exact: bool = Field(description="whether the overlap covers all that the network sees, so that tiles do not show")

    @property
    def fade(self) -> int:
        """Pixels on each side of a seam over which tiles are cross-faded: none where they are exact."""
        return 0 if self.exact else max(min(self.overlap, self.tile - 2 * self.overlap) // 2, 0)

    def smaller(self, ratio: float, least: int) -> Tiling | None:
        """Tiles of at most `ratio` of the pixels; None where they would be under `least` pixels a side."""
        side = int(self.tile * math.sqrt(ratio)) // STEP * STEP
        side = max(min(side, self.tile - STEP), 0)
        return self.model_copy(update={"tile": max(side, least)}) if self.tile > least else None


def least_tile(io: SRFormat, overlap: int) -> int:
    """The smallest tile that still has an interior worth its halo."""
    return max(io.min_input_side, 2 * overlap + STEP, LEAST_TILE)


def choose(
    io: SRFormat, *, tile: int | None, overlap: int | None, batch: int, shapes: ShapeRange | None = None
) -> Tiling:
    """The tiling for a network, before memory is looked at.

    `shapes`: the inputs that its engine takes, None for all. UsageError for a tile without interior, and for one or a
    batch that the engine does not take.

    With a finite halo the overlap is that and one pixel more, so that the pixels beside a seam are exact in both tiles
    and can be compared; the tile is as large as SHARE_KEPT asks for. Without one there is no exact overlap: tiles are
    large and overlap by INEXACT_OVERLAP.
    """
    if overlap is None:
        overlap = INEXACT_OVERLAP if io.halo is None else io.halo + 1
    if tile is None:
        if io.halo is None:
            tile = LARGEST_INEXACT_TILE
        else:
            side = 2 * overlap / (1 - math.sqrt(SHARE_KEPT))
            tile = min(max(STEP * math.ceil(side / STEP), 4 * LEAST_TILE), LARGEST_TILE)
        tile = max(tile, least_tile(io, overlap))
        tile = tile if shapes is None else min(tile, shapes.sides[1])
    if shapes is not None:
        _require_taken(shapes, tile, overlap, batch)
    if tile <= 2 * overlap or tile < io.min_input_side:
        least = max(2 * overlap + 1, io.min_input_side)
        raise UsageError(f"--tile {tile} is too small for an overlap of {overlap}; give at least {least}")
    return Tiling(tile=tile, overlap=overlap, batch=batch, exact=io.halo is not None and overlap >= io.halo)


def _require_taken(shapes: ShapeRange, tile: int, overlap: int, batch: int) -> None:
    least, most, fewest, largest = *shapes.sides, shapes.smallest[0], shapes.largest[0]
    if not fewest <= batch <= largest:
        raise UsageError(f"--batch {batch}: the engine takes {fewest} to {largest} tiles at once")
    if tile > most:
        raise UsageError(
            f"--tile {tile}: the engine takes {least} to {most} pixels a side; compress with a larger --input-size"
        )
    if most <= 2 * overlap:
        raise UsageError(
            f"the engine takes at most {most} pixels a side, too few for an overlap of {overlap}; give an --overlap of "
            f"{(most - 1) // 2} at most, or compress with a larger --input-size"
        )


def fitted(tiling: Tiling, io: SRFormat, activations: int, free: int) -> Tiling:
    """Smaller tiles where `activations` (bytes of a batch of tiles, at least) suggest that `free` bytes will not do."""
    if activations * _SPARE <= free:
        return tiling
    ratio = max(free, 1) / (activations * _SPARE)
    least = least_tile(io, tiling.overlap)
    return tiling.smaller(ratio, least) or tiling


def count_tiles(items: Sequence[Item], tiling: Tiling) -> int:
    """Tiles of all pictures together."""
    return sum(len(_windows(item, tiling)) for item in items)


def tile_shapes(items: Sequence[Item], tiling: Tiling) -> list[tuple[int, int]]:
    """Heights and widths of the tiles, the most frequent first; the engine is built for that one."""
    shapes = Counter(window.shape for item in items for window in _windows(item, tiling))
    return [shape for shape, _ in shapes.most_common()]


def _windows(item: Item, tiling: Tiling) -> list[Window]:
    return windows(item.header.height, item.header.width, tiling.tile, tiling.overlap)


def picture_bytes(item: Item, tiling: Tiling, scale: int) -> int:
    """Bytes that one picture takes beside the engine: itself while it is decoded, and a row of enlarged tiles."""
    header = item.header
    decoding = 3 * header.height * header.width * header.pixel_bytes
    longest, shortest = max(header.height, header.width), min(header.height, header.width)
    # A turned picture has its rows along the longer side.
    band = min(tiling.tile, shortest) * scale * longest * scale * header.pixel_bytes
    # Float strips of three channels that wait for the row of tiles below.
    waiting = 2 * tiling.fade * scale * longest * scale * 3 * 4
    return decoding + band + waiting + _WRITER_BYTES
