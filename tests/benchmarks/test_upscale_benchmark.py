"""What the upscaling benchmark measures: the largest resident set of the command, and what tiles cost."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitwright
from benchmarks.upscale import differences, mosaic, upscaled
from bitwright.runs.upscale_request import GIB
from deploy.engine import Runtime
from tests.bitwright.upscale_helpers import enlarger, int8_engine, pixels

pytestmark = pytest.mark.engine
GIVEN = Namespace(threads=1)


def engine(data: Path, name: str, folder: Path) -> Path:
    network, io = enlarger(data, name)
    return int8_engine(network, io, folder, Runtime.OPENVINO)


@pytest.mark.parametrize(
    ("width", "height", "limit"),
    [(1280, 720, 0.75), pytest.param(3840, 2160, 2.0, marks=pytest.mark.long, id="4K to 16K")],
)
def test_the_peak_stays_under_the_limit(data: Path, tmp_path: Path, width: int, height: int, limit: float) -> None:
    built = engine(data, "espcn_x4", tmp_path / "engine")
    Image.fromarray(mosaic(data / "sr" / "train" / "BSDS500", height, width)).save(tmp_path / "a.png")
    done = upscaled(built, tmp_path / "a.png", tmp_path / "b.png", GIVEN, "--memory", f"{limit}G")
    assert (done["pictures"][0]["width"], done["pictures"][0]["height"]) == (4 * width, 4 * height)
    assert 0.1 * GIB < done["peak_bytes"] < limit * GIB
    assert done["peak_bytes"] <= done["memory"]["estimate"]


@pytest.mark.parametrize(
    "name",
    ["rfdn_x4", pytest.param("imdn_x4", marks=pytest.mark.long), pytest.param("rlfn_x4", marks=pytest.mark.long)],
)
def test_tiles_of_a_network_without_a_halo_stay_close_to_the_whole(data: Path, tmp_path: Path, name: str) -> None:
    """Such a network's output depends on the size of its input, so that no overlap makes the two equal."""
    built = engine(data, name, tmp_path / "engine")
    with Image.open(sorted((data / "sr" / "test" / "BSD100").iterdir())[0]) as image:
        image.convert("RGB").crop((0, 0, 200, 160)).save(tmp_path / "a.png")

    def made(tile: int, overlap: int | None = None) -> np.ndarray:
        out = tmp_path / "b.png"
        bitwright.upscale(
            built, tmp_path / "a.png", out=out, tile=tile, overlap=overlap, threads=1, memory=16 << 30, overwrite=True
        )
        return pixels(out)

    whole = made(200)
    found, cut = differences(made(128), whole), differences(made(128, 0), whole)
    assert found["psnr_db"] is not None
    assert cut["psnr_db"] is not None
    assert found["psnr_db"] >= 40.0
    assert found["psnr_db"] > cut["psnr_db"] + 0.2
    assert found["mean"] is not None
    assert found["mean"] <= 2.0


def test_differences_are_in_grey_levels() -> None:
    a = np.full((4, 4, 3), 100, np.uint8)
    b = a.copy()
    b[0, 0, 0] = 148
    assert differences(a, a) == {"psnr_db": None, "largest": 0.0, "mean": 0.0}
    assert differences(a, b) == {"psnr_db": pytest.approx(10 * np.log10(255**2 / 48)), "largest": 48.0, "mean": 1.0}
