"""Pictures of a run as data URIs, so that the report stays one file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from bitwright.report import text
from bitwright.report.schema import Picture

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Tile:
    """One version of a crop; `source` is None where the file is missing or is not a PNG."""

    key: str
    label: str
    note: str
    source: str | None


@dataclass(frozen=True)
class Comparison:
    """The versions of one crop in reading order, and the sentence beside its name."""

    name: str
    crop: str
    summary: str
    tiles: tuple[Tile, ...]

    @property
    def comparable(self) -> bool:
        """Whether float and engine are both there to be laid over each other."""
        return all(tile.source for tile in self.tiles if tile.key in ("float", "engine"))


def compare(picture: Picture, run_folder: Path) -> Comparison:
    """Load the versions of one crop from the run folder."""
    tiles = [
        Tile("low", "Input", "low resolution", _embed(run_folder, picture.low_res)),
        Tile("float", "Float", _decibels(picture.psnr_float), _embed(run_folder, picture.float_png)),
        Tile("engine", "Engine", _decibels(picture.psnr_engine), _embed(run_folder, picture.engine_png)),
    ]
    if picture.reference_png is not None:
        tiles.append(Tile("reference", "Reference", "original", _embed(run_folder, picture.reference_png)))
    left, top, right, bottom = picture.crop
    crop = f"{text.shape((right - left, bottom - top))} crop at ({left}, {top})"
    return Comparison(picture.name, crop, _change(picture), tuple(tiles))


def _embed(run_folder: Path, relative: str) -> str | None:
    try:
        data = (run_folder / relative).read_bytes()
    except OSError:
        return None
    if not data.startswith(_PNG_SIGNATURE):
        return None
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _decibels(value: float | None) -> str:
    return f"PSNR {text.number(value, 3)}" + (" dB" if value is not None else "")


def _change(picture: Picture) -> str:
    if picture.psnr_float is None or picture.psnr_engine is None:
        return f"PSNR change {text.NOT_AVAILABLE}"
    return f"{text.signed(picture.psnr_engine - picture.psnr_float)} dB on this crop"
