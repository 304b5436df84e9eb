"""The free pictures that scikit-image carries in its package: enough for a demonstration without a download."""

from __future__ import annotations

from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import MissingPackageError
from bitwright.foundation.files import write_bytes

CALIBRATION = (
    "brick.png",
    "camera.png",
    "chelsea.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
)
EVALUATION = ("astronaut.png", "coffee.png", "rocket.jpg")


def _picture_bytes(name: str) -> bytes:
    try:
        return files("skimage").joinpath("data", name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise MissingPackageError(
            f"the picture {name} of scikit-image cannot be read ({error}); install it with: pip install scikit-image"
        ) from error


def read_picture(name: str) -> NDArray[np.uint8]:
    """One of the pictures as RGB uint8 [H, W, 3]; MissingPackageError if scikit-image does not carry it."""
    from PIL import Image

    with Image.open(BytesIO(_picture_bytes(name))) as image:
        return np.array(image.convert("RGB"))


def write_pictures(folder: Path) -> list[Path]:
    """Write the pictures to `folder`/calibration and `folder`/evaluation and return their paths, in that order.

    The two lists share no picture. A file that is already there with the same bytes is left alone.
    """
    written = []
    for split, names in (("calibration", CALIBRATION), ("evaluation", EVALUATION)):
        for name in names:
            path, data = Path(folder, split, name), _picture_bytes(name)
            if not path.is_file() or path.read_bytes() != data:
                write_bytes(path, data)
            written.append(path)
    return written
