"""`bitwright upscale` on real engines: equal to the untiled result, kept formats, bounded memory, no seams."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import bitwright
from deploy.engines import load_engine, read_spec
from deploy.verify import engine_predict
from tests.bitwright.job_helpers import command, compress, some_photos, tiny_checkpoint, tiny_network
from tests.bitwright.upscale_helpers import Pooled, enlarger, float_engine, photo, pixels, save, upscaled_apart, whole
from tests.workloads.png_reader import decode, encode
from workloads.super_resolution.bicubic import upscale as bicubic
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.network_format import to_network, to_samples

pytestmark = pytest.mark.engine
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float x2 network of three convolutions in ONNX Runtime; its halo is 3."""
    network = tiny_network()
    return float_engine(network, network.io, tmp_path_factory.mktemp("engine") / "float")


@pytest.mark.parametrize("size", [(150, 201), (64, 70), (65, 300), (31, 40)])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_float_engine_gives_what_it_gives_without_tiles(
    engine: Path, tmp_path: Path, size: tuple[int, int], batch: int
) -> None:
    picture = photo(*size)
    save(tmp_path, a=picture)
    done = bitwright.upscale(
        engine, tmp_path / "a.png", out=tmp_path / "large.png", tile=64, batch=batch, threads=1, memory=16 << 30
    )
    difference = np.abs(pixels(tmp_path / "large.png").astype(int) - whole(engine, picture))
    # One grey level where float rounding falls on the other side of a half.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert done.tiling is not None
    assert (done.tiling.exact, done.tiling.overlap) == (True, 4)
    assert (done.pictures[0].height, done.pictures[0].width) == (2 * size[0], 2 * size[1])
    if max(size) > 64:
        assert done.pictures[0].seam_largest is not None
        assert done.pictures[0].seam_largest < 1e-3
    else:
        assert done.pictures[0].seam_largest is None


def test_an_overlap_under_the_halo_is_named_and_seen(engine: Path, tmp_path: Path, capsys: Capture) -> None:
    save(tmp_path, a=photo(120, 120))
    words = ("upscale", engine, tmp_path / "a.png", "--out", tmp_path / "b.png", "--tile", "48", "--overlap", "1")
    ended = command(capsys, *words, "--memory", "16G", "--json")
    assert ended.code == 0, ended.err
    assert "the network sees 3 pixels around, so the result depends on --tile 48 and --overlap 1" in ended.err
    found = json.loads(ended.out)
    assert found["tiling"]["exact"] is False
    assert found["pictures"][0]["seam_largest"] > 0.5


def test_a_network_without_a_halo_is_named(tmp_path: Path, capsys: Capture) -> None:
    built = float_engine(Pooled().eval(), SRFormat(2, Color.RGB, 1.0), tmp_path / "engine")
    picture = photo(200, 200)
    save(tmp_path, a=picture)
    words = ("upscale", built, tmp_path / "a.png", "--memory", "16G", "--threads", "1")
    ended = command(capsys, *words, "--out", tmp_path / "b.png", "--tile", "96")
    assert ended.code == 0, ended.err
    assert "no finite halo" in ended.err
    assert "depends on --tile 96 and --overlap 32; tiles are cross-faded over 32 pixels" in ended.err
    assert "differ by at most 0 of" not in ended.out
    # Tiles are large where nothing makes them small: this picture is one, and exact.
    ended = command(capsys, *words, "--out", tmp_path / "c.png")
    assert "no finite halo" not in ended.err
    assert np.abs(pixels(tmp_path / "c.png").astype(int) - whole(built, picture)).max() <= 1
    assert np.abs(pixels(tmp_path / "b.png").astype(int) - whole(built, picture)).max() >= 1


def test_sixteen_bits_stay_sixteen(engine: Path, tmp_path: Path) -> None:
    wide = photo(90, 100).astype(np.uint16) * 257
    wide += np.random.default_rng(0).integers(-200, 200, wide.shape).clip(0, 255).astype(np.uint16) * (wide < 65000)
    (tmp_path / "a.png").write_bytes(encode(wide))
    bitwright.upscale(engine, tmp_path / "a.png", out=tmp_path / "b.png", tile=64, threads=1, memory=16 << 30)
    found, _ = decode((tmp_path / "b.png").read_bytes())
    io = read_spec(engine).super_resolution
    assert io is not None
    output = engine_predict(load_engine(engine, 1))(to_network(wide, io))
    expected = to_samples(output, io, 3, 16, None)
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert len(np.unique(found)) > 1000


def test_grey_stays_grey_and_alpha_is_resampled(engine: Path, tmp_path: Path) -> None:
    grey = photo(80, 90)[:, :, 0]
    alpha = np.roll(photo(80, 90)[:, :, 1], 7)
    Image.fromarray(np.dstack([grey, alpha]), "LA").save(tmp_path / "a.png")
    done = bitwright.upscale(engine, tmp_path / "a.png", out=tmp_path / "b.png", tile=64, threads=1, memory=16 << 30)
    found = pixels(tmp_path / "b.png")
    assert found.shape == (160, 180, 2)
    np.testing.assert_array_equal(found[:, :, 1], bicubic(alpha, 2))
    assert "bicubic" in done.pictures[0].notes[0]
    colour = whole(engine, np.repeat(grey[:, :, None], 3, axis=2)).astype(int) @ [0.299, 0.587, 0.114]
    assert np.abs(found[:, :, 0] - colour).max() <= 1.5


@pytest.mark.parametrize("grey", [False, True])
def test_a_luma_network_gets_the_chroma_of_bicubic(data: Path, tmp_path: Path, grey: bool) -> None:
    network, io = enlarger(data, "fsrcnn_x2")
    built = float_engine(network, io, tmp_path / "engine")
    picture = photo(100, 130)
    if grey:
        picture = np.repeat(picture[:, :, :1], 3, axis=2)
    save(tmp_path, a=picture[:, :, 0] if grey else picture)
    bitwright.upscale(built, tmp_path / "a.png", out=tmp_path / "b.png", tile=64, threads=1, memory=16 << 30)
    expected = whole(built, picture)
    assert np.abs(pixels(tmp_path / "b.png").astype(int) - (expected[:, :, 0] if grey else expected)).max() <= 1


def test_orientation_profile_and_palette(engine: Path, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(photo(40, 70))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "turned.png", exif=exif, icc_profile=profile)
    image.quantize(32).save(tmp_path / "palette.png")
    bitwright.upscale(engine, tmp_path, out=tmp_path / "out", threads=1, memory=16 << 30)
    with Image.open(tmp_path / "out" / "turned.png") as made:
        assert made.size == (80, 140)
        assert made.info["icc_profile"] == profile
        assert made.getexif().get(274, 1) == 1
    turned = np.rot90(photo(40, 70), -1)
    difference = np.abs(
        pixels(tmp_path / "out" / "turned.png").astype(int) - whole(engine, np.ascontiguousarray(turned))
    )
    assert difference.max() <= 1
    assert pixels(tmp_path / "out" / "palette.png").shape == (80, 140, 3)


def test_memory_decides_the_tile_and_is_kept(tmp_path: Path, capsys: Capture) -> None:
    """In processes of their own: what earlier tests left in this one would decide as well."""
    network = tiny_network(width=64)
    built = float_engine(network, network.io, tmp_path / "engine")
    save(tmp_path, a=np.tile(photo(300, 300), (2, 2, 1)))

    def with_memory(limit: str) -> subprocess.CompletedProcess[str]:
        return upscaled_apart(built, tmp_path / "a.png", tmp_path / "b.png", "--overwrite", "--memory", limit)

    wide = json.loads(with_memory("16G").stdout)
    assert wide["tiling"]["tile"] == 256
    for less, least in ((30 << 20, 128), (50 << 20, 64)):
        limit = wide["memory"]["estimate"] - less
        done = with_memory(str(limit))
        assert "GiB resident, limit" in done.stderr
        tight = json.loads(done.stdout)
        assert least <= tight["tiling"]["tile"] < 256
        assert tight["memory"]["peak"] <= tight["memory"]["estimate"] <= limit
    # Less than any process takes.
    words = ("upscale", built, tmp_path / "a.png", "--out", tmp_path / "b.png", "--overwrite", "--threads", "1")
    assert "--memory 0.02G is too little" in command(capsys, *words, "--memory", "20M").refusal()
    assert "smaller --tile" in command(capsys, *words, "--memory", "20M", "--tile", "64").refusal()


def test_the_whole_picture_is_never_in_memory(engine: Path, tmp_path: Path) -> None:
    """The estimate for a picture of four times the height grows by what decoding it takes, not by its result."""
    estimates = []
    # The first call brings in what later ones find in the process.
    for height in (400, 400, 1600):
        save(tmp_path, a=np.tile(photo(400, 400), (height // 400, 1, 1)))
        out = tmp_path / f"{len(estimates)}.png"
        done = bitwright.upscale(engine, tmp_path / "a.png", out=out, tile=64, threads=1, memory=16 << 30)
        assert done.memory is not None
        assert done.memory.peak <= done.memory.estimate
        estimates.append(done.memory.estimate)
    grown = estimates[2] - estimates[1]
    assert grown < 1200 * 400 * 4 * 4 * 2


def test_a_finished_run_holds_such_an_engine(data: Path, tmp_path: Path, capsys: Capture) -> None:
    photos = some_photos(data, tmp_path / "photos", 3)
    ended = compress(capsys, tiny_checkpoint(tmp_path), photos, tmp_path / "run", "--no-reconstruct")
    assert ended.code == 0, ended.err
    for folder in (tmp_path / "run" / "engine", tmp_path / "run" / "baseline"):
        if folder.is_dir():
            assert read_spec(folder).super_resolution == tiny_network().io
    ended = command(capsys, "upscale", tmp_path / "run", photos, "--out", tmp_path / "large", "--memory", "16G")
    assert ended.code == 0, ended.err
    assert "3 pictures enlarged x2" in ended.out
    for path in photos.iterdir():
        assert pixels(tmp_path / "large" / path.name).shape[0] == 2 * pixels(path).shape[0]
