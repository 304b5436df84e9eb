"""Pictures read for enlargement: depth, greyness, transparency, orientation and colour profile."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.workloads.png_reader import encode
from workloads.super_resolution.images import UnreadableImageError
from workloads.super_resolution.picture import ORIENTATION, Picture, read_header, read_picture_file

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(channels: int, bits: int = 8) -> np.ndarray:
    random = np.random.default_rng(channels)
    return random.integers(0, 2**bits, (13, 17, channels)).astype(np.uint16 if bits == 16 else np.uint8)


def together(picture: Picture) -> np.ndarray:
    return picture.colour if picture.alpha is None else np.dstack([picture.colour, picture.alpha])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_samples_are_kept_bit_for_bit(tmp_path: Path, channels: int, bits: int, interlaced: bool) -> None:
    samples = noise(channels, bits)
    (tmp_path / "a.png").write_bytes(encode(samples, interlaced=interlaced))
    picture = read_picture_file(tmp_path / "a.png")
    assert picture.bits == bits
    assert (picture.alpha is not None) == (channels in (2, 4))
    np.testing.assert_array_equal(together(picture), samples)
    header = read_header(tmp_path / "a.png")
    assert (header.height, header.width, header.pixel_bytes) == (13, 17, bits // 2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_becomes_alpha(tmp_path: Path, channels: int, bits: int) -> None:
    samples = noise(channels, bits)
    samples[2:5, 3:9] = 77
    key = struct.pack(f">{channels}H", *[77] * channels)
    (tmp_path / "a.png").write_bytes(encode(samples, extra=((b"tRNS", key),)))
    picture = read_picture_file(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.colour, samples)
    assert picture.alpha is not None
    clear = (samples == 77).all(axis=2)
    np.testing.assert_array_equal(picture.alpha, np.where(clear, 0, 2**bits - 1))


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(noise(3)).quantize(16)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture_file(tmp_path / "a.png").colour, np.asarray(image.convert("RGB")))
    image.save(tmp_path / "b.png", transparency=3)
    alpha = read_picture_file(tmp_path / "b.png").alpha
    assert alpha is not None
    np.testing.assert_array_equal(alpha, np.where(np.asarray(image) == 3, 0, 255))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int, wide: bool) -> None:
    samples = noise(4)
    image = Image.fromarray(samples)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    if wide:
        block = exif.tobytes().removeprefix(b"Exif\0\0")
        (tmp_path / "a.png").write_bytes(encode(samples.astype(np.uint16) * 257, extra=((b"eXIf", block),)))
    else:
        image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    found = together(read_picture_file(tmp_path / "a.png"))
    np.testing.assert_array_equal(found // 257 if wide else found, upright)


def test_profiles_stay_where_they_fit(tmp_path: Path) -> None:
    Image.fromarray(noise(3)).save(tmp_path / "a.png", icc_profile=SRGB)
    assert read_picture_file(tmp_path / "a.png").icc == SRGB
    Image.fromarray(noise(1)[:, :, 0]).save(tmp_path / "b.jpg", icc_profile=SRGB)
    grey = read_picture_file(tmp_path / "b.jpg")
    assert grey.icc is None
    assert "ICC" in grey.notes[0]


def test_cmyk_becomes_rgb_and_says_so(tmp_path: Path) -> None:
    Image.new("CMYK", (5, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", icc_profile=b"damaged" * 20)
    picture = read_picture_file(tmp_path / "a.jpg")
    assert picture.colour.shape == (4, 5, 3)
    assert picture.colour[0, 0, 0] > 200 > 50 > picture.colour[0, 0, 1]
    assert picture.icc is None
    assert any("CMYK" in note for note in picture.notes)


def test_only_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(3)), Image.new("RGB", (17, 13))]
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    picture = read_picture_file(tmp_path / "a.tiff")
    np.testing.assert_array_equal(picture.colour, noise(3))
    assert "first" in picture.notes[0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_damaged_wide_files_are_one_clear_error(tmp_path: Path, channels: int) -> None:
    whole = encode(noise(channels, 16))
    # Behind the last pixel come the checksums of the stream and of the chunk, and the end of the file.
    for length in range(0, len(whole) - 20, 7):
        (tmp_path / "a.png").write_bytes(whole[:length])
        with pytest.raises(UnreadableImageError, match=r"cannot use the picture .*a\.png"):
            read_picture_file(tmp_path / "a.png")


def test_floating_point_and_32_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "a.tiff")
    Image.fromarray(np.full((3, 3), 1 << 20, np.int32)).save(tmp_path / "b.tiff")
    for name in ("a.tiff", "b.tiff"):
        with pytest.raises(UnreadableImageError, match="8 or 16 bits"):
            read_picture_file(tmp_path / name)
