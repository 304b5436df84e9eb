from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitwright.foundation.errors import DataError
from workloads.embedded.pictures import CALIBRATION, EVALUATION, read_picture, write_pictures
from workloads.super_resolution.images import UnreadableImageError, image_size, list_images, read_image


def _save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_rgb_and_grey(tmp_path: Path) -> None:
    rgb, grey = _random(9, 7, 3), _random(9, 7)
    np.testing.assert_array_equal(read_image(_save(tmp_path / "a.png", rgb)), rgb)
    np.testing.assert_array_equal(read_image(_save(tmp_path / "b.bmp", grey)), np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(read_image(_save(tmp_path / "c.png", grey > 127))[:, :, 1], (grey > 127) * 255)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = _random(6, 5, 4)
    np.testing.assert_array_equal(read_image(_save(tmp_path / "a.png", rgba)), rgba[:, :, :3])
    grey_alpha = _random(6, 5, 2)
    np.testing.assert_array_equal(read_image(_save(tmp_path / "b.png", grey_alpha))[:, :, 2], grey_alpha[:, :, 0])


def test_palette_with_transparency(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    indexed.save(tmp_path / "p.png", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(tmp_path / "p.png")
    assert pixels.tolist() == [[[255, 0, 0], [0, 255, 0]], [[10, 20, 30], [0, 255, 0]]]


def test_sixteen_bits_are_scaled_by_257(tmp_path: Path) -> None:
    wide = np.array([[0, 128, 129, 257, 385, 386, 65406, 65407, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        assert read_image(_save(tmp_path / name, wide))[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2, 254, 255, 255], name


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="floating-point"):
        read_image(_save(tmp_path / "f.tif", np.ones((4, 4), np.float32)))
    with pytest.raises(UnreadableImageError, match="32-bit"):
        read_image(_save(tmp_path / "i.tif", np.full((4, 4), 70_000, np.int32)))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = read_image(_save(tmp_path / "o.jpg", pixels, exif=exif, quality=95))
    assert upright.shape == (16, 8, 3)
    assert upright[2].mean() > 250
    assert upright[13].mean() < 5
    assert image_size(tmp_path / "o.jpg") == (8, 16)


def test_one_pixel_and_cmyk(tmp_path: Path) -> None:
    assert read_image(_save(tmp_path / "1.png", np.array([[[1, 2, 3]]], np.uint8))).tolist() == [[[1, 2, 3]]]
    Image.new("CMYK", (3, 2), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "c.jpg").astype(int) - [255, 0, 0]).max() <= 2


def test_large_picture_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (5000, 7000), (7, 8, 9)).save(tmp_path / "large.png", compress_level=1)
    pixels = read_image(tmp_path / "large.png")
    assert pixels.shape == (7000, 5000, 3)
    assert pixels[6999, 4999].tolist() == [7, 8, 9]


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImageError, match=r"bomb\.png: .*too many pixels, the limit is 89 megapixels"):
            read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_truncated_anywhere_is_one_clear_error(tmp_path: Path, suffix: str) -> None:
    whole = _save(tmp_path / f"whole.{suffix}", _random(40, 50, 3)).read_bytes()
    broken = tmp_path / f"broken.{suffix}"
    for length in (0, 1, 9, 30, len(whole) // 3, len(whole) // 2, len(whole) * 3 // 4):
        broken.write_bytes(whole[:length])
        with pytest.raises(UnreadableImageError) as caught:
            read_image(broken)
        assert str(caught.value).startswith(f"cannot use the picture {broken}: ")
        assert "\n" not in str(caught.value)
        assert str(broken) not in caught.value.reason
        assert caught.value.reason


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path, suffix: str) -> None:
    whole = bytearray(_save(tmp_path / f"whole.{suffix}", _random(24, 24, 3)).read_bytes())
    draw = np.random.default_rng(5)
    path = tmp_path / f"flipped.{suffix}"
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in draw.integers(0, min(len(whole), 200), 3):
            damaged[place] ^= int(draw.integers(1, 256))
        path.write_bytes(damaged)
        try:
            assert read_image(path).dtype == np.uint8
        except UnreadableImageError:
            refused += 1
    assert refused > 0


def test_listing_is_recursive_natural_and_picky(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.PNG", "b/x.jpg", "b/.hidden.png", ".git/y.png", "notes.txt", "IMG1.jpeg", "a.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [image.name for image in list_images(tmp_path)] == ["b/x.jpg", "IMG1.jpeg", "img2.PNG", "img10.png"]


def test_folders_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list_images(tmp_path / "absent")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match=r"no picture in .*png"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="is a file, not a folder"):
        list_images(tmp_path / "file.txt")


def test_embedded_pictures(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        *(f"calibration/{name}" for name in CALIBRATION),
        *(f"evaluation/{name}" for name in EVALUATION),
    ]
    assert not set(CALIBRATION) & set(EVALUATION)
    np.testing.assert_array_equal(read_image(tmp_path / "evaluation" / "astronaut.png"), read_picture("astronaut.png"))
    assert all(min(read_image(path).shape[:2]) >= 300 for path in paths)
    before = [path.stat().st_mtime_ns for path in paths]
    assert write_pictures(tmp_path) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before
