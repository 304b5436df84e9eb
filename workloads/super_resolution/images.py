"""Reading pictures of any kind as RGB uint8 [H, W, 3], and finding them in a folder."""

from __future__ import annotations

import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation import progress
from bitwright.foundation.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PIXELS = 89_478_485
"""The largest picture that is decoded, in pixels (about 9459 x 9459): Pillow's bound against decompression bombs."""

# What Pillow's decoders are known to raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
_warning_filters = threading.Lock()


class UnreadableImageError(DataError):
    """A picture file that cannot be used; `reason` says why without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot use the picture {path}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class ImageFile:
    """A picture in a folder: `name` is its path relative to that folder, with forward slashes."""

    path: Path
    name: str


@dataclass(frozen=True)
class Skipped:
    """A picture that cannot be used, and why."""

    name: str
    reason: str


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts img2 before img10."""
    parts = re.split(r"(\d+)", text)
    return tuple((1, int(part), part) if part.isdecimal() else (0, 0, part.casefold()) for part in parts)


def list_images(folder: Path) -> list[ImageFile]:
    """The pictures below `folder` by suffix, in natural order; hidden files and other kinds of file are ignored.

    DataError if the folder does not exist, cannot be listed, or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder of pictures" if folder.is_file() else "does not exist"
        raise DataError(f"{folder} {what}; give a folder that holds {_suffixes()} files")
    found: list[ImageFile] = []
    refused: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=lambda error: refused.append(str(error))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                found.append(ImageFile(path, path.relative_to(folder).as_posix()))
    for message in refused:
        progress.note(f"skipped a folder that cannot be listed: {message}")
    if not found:
        why = f" ({refused[0]})" if refused else ""
        raise DataError(f"no picture in {folder}{why}; it must hold {_suffixes()} files")
    return sorted(found, key=lambda image: (natural_key(image.name), image.name))


def _suffixes() -> str:
    return ", ".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode a picture file as RGB, uint8 [H, W, 3], turned upright by its EXIF orientation.

    Grey is repeated over the channels, palettes are looked up, an alpha channel is dropped (not composited), CMYK is
    converted; of several frames the first is taken. 16-bit grey becomes round(v / 257); of 16-bit colour Pillow keeps
    the high byte. UnreadableImageError if the file is unreadable, damaged, larger than MAX_PIXELS or holds
    floating-point pixels.
    """
    from PIL import ImageOps

    with opened(path) as image:
        return _to_rgb(ImageOps.exif_transpose(image), path)


def image_size(path: Path) -> tuple[int, int]:
    """(shorter, longer) side of a picture in pixels, from its header alone; UnreadableImageError as `read_image`."""
    with opened(path) as image:
        return min(image.size), max(image.size)


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """A picture that is open and not decoded; what a decoder raises in the block becomes an UnreadableImageError."""
    try:
        with _open(path) as image:
            yield image
    except _DECODE_ERRORS as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> UnreadableImageError:
    said = " ".join(str(error).split())
    for mention in (f": {str(path)!r}", f" {str(path)!r}"):
        said = said.replace(mention, "")
    return UnreadableImageError(path, said or type(error).__name__)


def _open(path: Path) -> Image:
    """Open without decoding; Pillow's warning about very large pictures becomes our refusal."""
    from PIL import Image

    limit = f"the limit is {MAX_PIXELS / 1e6:.0f} megapixels; cut it into parts"
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Metadata that Pillow grumbles about does not keep a picture from being used.
        warnings.simplefilter("ignore", UserWarning)
        try:
            image = Image.open(path)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UnreadableImageError(path, f"too many pixels, {limit}") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UnreadableImageError(path, f"{image.width}x{image.height} is too many pixels, {limit}")
    return image


def _to_rgb(image: Image, path: Path) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise UnreadableImageError(path, "it holds floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.int64)
        if wide.size and (wide.min() < 0 or wide.max() > 65535):
            raise UnreadableImageError(path, "it holds 32-bit pixels; save it with 8 or 16 bits a channel")
        grey = ((2 * wide + 257) // 514).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns when such a palette goes straight to RGB; the colours are the same.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def note_skipped(skipped: list[Skipped], folder: Path, purpose: str) -> None:
    """Name the pictures that were skipped, one line for each reason; beyond 20 names a line says how many more."""
    by_reason: dict[str, list[str]] = {}
    for one in sorted(skipped, key=lambda one: natural_key(one.name)):
        by_reason.setdefault(one.reason, []).append(one.name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        progress.note(f"skipped for {purpose}, from {folder}: {', '.join(names[:20])}{more}: {reason}")


def nothing_usable(skipped: list[Skipped], folder: Path, purpose: str) -> DataError:
    """The error for a folder of which every picture was skipped; names the first three reasons."""
    reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return DataError(f"no picture in {folder} can be used for {purpose} ({reasons}{more})")
