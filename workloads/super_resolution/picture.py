"""Picture: a picture file with all that must survive its enlargement: depth, greyness, transparency and colour profile.

Pillow keeps the high byte of 16-bit colour only. PNG's rows are big-endian samples, so reading them as little-endian
gives the low byte, and two passes give both; the decoder itself stays Pillow's.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from workloads.super_resolution.images import UnreadableImageError, opened
from workloads.super_resolution.network_format import Samples

if TYPE_CHECKING:
    from PIL.Image import Image

NARROW, WIDE = 4, 8
"""Bytes of a decoded pixel, of 8 bits and of 16."""
ORIENTATION = 274
"""The EXIF tag that says how a picture must be turned to be upright."""

_WIDE_COLOUR = {"RGB;16B": ("RGB", "RGB;16B", "RGB;16L"), "RGBA;16B": ("RGBA", "RGBA;16B", "RGBA;16L")}
_WIDE_GREY_ALPHA = "LA;16B"
_SPACES = {1: b"GRAY", 3: b"RGB "}


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    `colour`: [H, W, 1] grey or [H, W, 3] RGB, uint8 or uint16. `alpha`: [H, W] of the same depth; None where the
    picture is opaque. `icc`: the profile that the colours are meant in. `notes`: what was changed in reading.
    """

    colour: Samples
    alpha: Samples | None
    icc: bytes | None
    notes: tuple[str, ...] = ()

    @property
    def bits(self) -> int:
        """Bits a sample."""
        return 8 * self.colour.dtype.itemsize

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.colour.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.colour.shape[1])


@dataclass(frozen=True)
class PictureHeader:
    """What the header tells: sides before a turn, and bytes of a decoded pixel."""

    height: int
    width: int
    pixel_bytes: int


def read_header(path: Path) -> PictureHeader:
    """The size of a picture without decoding it; UnreadableImageError as `read_picture_file`."""
    with opened(path) as image:
        wide = image.mode.startswith("I") or _raw_mode(image) in (*_WIDE_COLOUR, _WIDE_GREY_ALPHA)
        return PictureHeader(image.height, image.width, WIDE if wide else NARROW)


def read_picture_file(path: Path) -> Picture:
    """Decode a picture for enlargement.

    Grey stays grey and 16 bits stay 16 in PNG and in grey TIFF; palettes are looked up, a transparent colour becomes
    alpha, CMYK becomes sRGB by its profile, EXIF orientation is applied. UnreadableImageError as `read_image`.
    """
    notes: list[str] = []
    with opened(path) as image:
        if getattr(image, "is_animated", False):
            notes.append("only the first of its frames is taken")
        icc = image.info.get("icc_profile")
        raw = _raw_mode(image)
        samples: Samples
        if raw in _WIDE_COLOUR:
            samples = _wide_colour(path, raw, image.info.get("transparency"))
        elif raw == _WIDE_GREY_ALPHA:
            samples = _wide_grey_alpha(path)
        elif image.mode == "F" or image.mode.startswith("I"):
            samples = _wide_grey(image, path)
        else:
            samples, icc = _narrow(image, icc, notes)
        turn = image.getexif().get(ORIENTATION, 1)
    channels = 3 if samples.shape[2] >= 3 else 1
    upright = np.ascontiguousarray(_turned(samples, turn))
    if icc is not None and icc[16:20] != _SPACES[channels]:
        notes.append("its ICC profile is for other colours than it has and is left out")
        icc = None
    alpha = upright[:, :, channels] if upright.shape[2] > channels else None
    colour = np.ascontiguousarray(upright[:, :, :channels])
    return Picture(colour, None if alpha is None else np.ascontiguousarray(alpha), icc or None, tuple(notes))


def _raw_mode(image: Image) -> str:
    """The sample layout in the file, as Pillow's decoders name it; empty where there is none or it is not told."""
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or not tiles:
        return ""
    arguments = tiles[0][3]
    return arguments if isinstance(arguments, str) else str(arguments[0])


def _decoded_as(path: Path, mode: str, raw: str) -> NDArray[np.uint8]:
    """Decode a PNG with its samples taken as `raw`, which must have as many bits a pixel as the file has."""
    with opened(path) as opened_image:
        image: Any = opened_image
        image._mode = mode
        image.tile = [tile._replace(args=raw) for tile in image.tile]
        return np.asarray(image)


def _wide_colour(path: Path, raw: str, transparent: object) -> NDArray[np.uint16]:
    mode, high_first, low_first = _WIDE_COLOUR[raw]
    samples = _decoded_as(path, mode, high_first).astype(np.uint16)
    samples <<= 8
    samples |= _decoded_as(path, mode, low_first)
    if isinstance(transparent, tuple) and len(transparent) == samples.shape[2] == 3:
        return np.dstack([samples, _opaque_elsewhere((samples == np.array(transparent)).all(axis=2))])
    return samples


def _wide_grey_alpha(path: Path) -> NDArray[np.uint16]:
    # Two 16-bit samples are four bytes, which RGBA hands over untouched.
    pairs = np.ascontiguousarray(_decoded_as(path, "RGBA", "RGBA"))
    return pairs.view(">u2").astype(np.uint16)


def _wide_grey(image: Image, path: Path) -> NDArray[np.uint16]:
    if image.mode == "F":
        raise UnreadableImageError(path, "it holds floating-point pixels; save it with 8 or 16 bits a channel")
    wide = np.asarray(image)
    if wide.dtype.itemsize > 2 and wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise UnreadableImageError(path, "it holds 32-bit pixels; save it with 8 or 16 bits a channel")
    grey = wide.astype(np.uint16)[:, :, None]
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        return np.dstack([grey, _opaque_elsewhere(grey[:, :, 0] == transparent)])
    return grey


def _opaque_elsewhere(transparent: NDArray[np.bool_]) -> NDArray[np.uint16]:
    return np.where(transparent, 0, 65535).astype(np.uint16)


def _narrow(image: Image, icc: bytes | None, notes: list[str]) -> tuple[NDArray[np.uint8], bytes | None]:
    """8-bit samples [H, W, C] and the profile that is left for them."""
    mode = image.mode
    if mode == "CMYK":
        return np.asarray(_cmyk_to_rgb(image, icc, notes)), None
    transparent = "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa")
    grey = mode in ("1", "L", "LA", "La")
    if not grey and mode not in ("RGB", "RGBA", "RGBa", "P", "PA"):
        notes.append(f"{mode} colours became RGB")
    # Pillow knows no way from L with a transparent grey to LA but through RGBA, and the three colours are equal.
    if grey and transparent:
        samples = np.asarray(image.convert("RGBA"))
        return samples[:, :, [0, 3]], icc
    wanted = "L" if grey else "RGBA" if transparent else "RGB"
    samples = np.asarray(image if mode == wanted else image.convert(wanted))
    return samples.reshape(*samples.shape[:2], -1), icc


def _cmyk_to_rgb(image: Image, icc: bytes | None, notes: list[str]) -> Image:
    from PIL import ImageCms

    try:
        if icc is not None:
            made = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(BytesIO(icc)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            notes.append("CMYK became sRGB by its ICC profile")
            return cast("Image", made)
    except (ImageCms.PyCMSError, OSError):
        notes.append("its ICC profile is damaged")
    notes.append("CMYK became RGB without a colour profile")
    return image.convert("RGB")


def _turned(samples: Samples, orientation: int) -> Samples:
    """Upright by an EXIF orientation, 1 to 8 (EXIF 2.32, table 6); other values are taken for 1."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    # What is left is a mirror image along each axis, or none.
    rows, columns = (orientation in (3, 4, 7, 8)), (orientation in (2, 3, 6, 7))
    return samples[:: -1 if rows else 1, :: -1 if columns else 1]
