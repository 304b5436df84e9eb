"""The PNG writer, against a plain decoder of our own and against Pillow."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.workloads.png_reader import chunks, decode
from workloads.embedded.pictures import read_picture
from workloads.super_resolution.png_writer import PngWriter


def written(samples: np.ndarray, cuts: tuple[int, ...] = (), icc: bytes | None = None) -> bytes:
    file = BytesIO()
    height, width, channels = samples.shape
    writer = PngWriter(file, height, width, channels, bits=8 * samples.itemsize, icc=icc)
    for rows in np.split(samples, cuts):
        writer.write(rows)
    writer.close()
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([8, 16]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_what_is_written_is_read(
    height: int, width: int, channels: int, bits: int, smooth: bool, seed: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    samples = random.integers(0, 2**bits, (height, width, channels))
    if smooth:
        samples = samples[:1, :1] // 2 + np.add.outer(np.arange(height) * 3, np.arange(width) * 5)[:, :, None]
    samples = samples.astype(np.uint16 if bits == 16 else np.uint8)
    cut = data.draw(st.integers(0, height))
    read, _ = decode(written(samples, (cut,)))
    assert read.dtype == samples.dtype
    np.testing.assert_array_equal(read, samples)


def test_a_photograph_of_several_chunks() -> None:
    photo = np.tile(read_picture("astronaut.png"), (2, 2, 1))
    made = written(photo, (3, 500))
    assert sum(name == b"IDAT" for name, _ in chunks(made)) > 1
    with Image.open(BytesIO(made)) as image:
        np.testing.assert_array_equal(np.asarray(image), photo)
    best = BytesIO()
    Image.fromarray(photo).save(best, "PNG")
    assert len(made) < 1.2 * len(best.getvalue())


def test_each_row_gets_the_filter_that_suits_it() -> None:
    rising = np.arange(64, dtype=np.uint8) * 2
    rows = [rising, rising, np.zeros(64, np.uint8), np.random.default_rng(0).integers(0, 256, 64).astype(np.uint8)]
    _, used = decode(written(np.stack(rows)[:, :, None]))
    assert {1, 2} <= used


def test_the_profile_is_embedded() -> None:
    profile = b"a colour profile" * 50
    with Image.open(BytesIO(written(np.zeros((2, 3, 3), np.uint8), icc=profile))) as image:
        assert image.info["icc_profile"] == profile


def test_rows_that_do_not_fit() -> None:
    writer = PngWriter(BytesIO(), 3, 4, 3)
    with pytest.raises(ValueError, match="do not fit"):
        writer.write(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="do not fit"):
        writer.write(np.zeros((1, 4, 1), np.uint8))
    writer.write(np.zeros((2, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="1 rows"):
        writer.close()
