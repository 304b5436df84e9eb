from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitwright.foundation import progress
from bitwright.foundation.errors import DataError, UsageError
from tests.listener import Listener
from workloads.parallel import ordered_map
from workloads.super_resolution.bicubic import downscale
from workloads.super_resolution.dataset import PairFolder, lr_crops
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.training_data import PatchDataset


def _picture(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four good pictures among one truncated JPEG, a 1x1 picture and a text file."""
    for number, (height, width) in enumerate([(61, 83), (90, 50), (64, 64), (47, 120)], start=1):
        Image.fromarray(_picture(height, width, number)).save(tmp_path / f"p{number}.png")
    Image.fromarray(_picture(64, 64, 9)).save(tmp_path / "bad.jpg")
    (tmp_path / "bad.jpg").write_bytes((tmp_path / "bad.jpg").read_bytes()[:700])
    Image.fromarray(_picture(1, 1, 0)).save(tmp_path / "dot.png")
    (tmp_path / "readme.txt").write_text("not a picture")
    return tmp_path


def test_pairs_are_cropped_shrunk_and_ordered_and_the_bad_are_named(folder: Path) -> None:
    notes = Listener()
    with progress.reporting_to(notes):
        pairs = PairFolder(folder, 4)
    assert [pair.name for pair in pairs] == ["p1.png", "p2.png", "p3.png", "p4.png"]
    assert [pair.hr.shape for pair in pairs] == [(60, 80, 3), (88, 48, 3), (64, 64, 3), (44, 120, 3)]
    assert pairs.lr_sizes == [(15, 20), (22, 12), (16, 16), (11, 30)]
    np.testing.assert_array_equal(pairs[0].hr, _picture(61, 83, 1)[:60, :80])
    np.testing.assert_array_equal(pairs[0].lr, downscale(_picture(61, 83, 1)[:60, :80], 4))
    assert len(notes.notes) == 2
    assert any("bad.jpg: " in line and "truncated" in line for line in notes.notes)
    assert any("dot.png: smaller than 4x4 pixels" in line for line in notes.notes)


def test_uncached_equals_cached_and_slices_are_views(folder: Path) -> None:
    cached, uncached = PairFolder(folder, 2), PairFolder(folder, 2, cache_bytes=0)
    assert cached.cached_bytes == sum(pair.nbytes for pair in cached)
    assert uncached.cached_bytes == 0
    for a, b in zip(cached, uncached, strict=True):
        np.testing.assert_array_equal(a.lr, b.lr)
    assert [pair.name for pair in cached[1:3]] == ["p2.png", "p3.png"]
    assert cached[1:3].lr_sizes == cached.lr_sizes[1:3]
    assert len(PairFolder(folder, 2, limit=2)) == 2


def test_a_picture_that_vanishes_is_named(folder: Path) -> None:
    pairs = PairFolder(folder, 2, cache_bytes=0)
    (folder / "p3.png").unlink()
    with pytest.raises(DataError, match=r"p3\.png was readable"):
        list(pairs)


def test_nothing_usable_says_why(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"evaluation \(bad\.jpg: .*truncated.*; dot\.png: smaller than .*; and 3 more\)"
    ):
        PairFolder(folder, 4, min_lr_side=100)
    with pytest.raises(DataError, match="calibration"):
        lr_crops(folder, 4, 2, 100)


def test_crops_are_deterministic_spread_and_cut_from_the_lr(folder: Path) -> None:
    notes = Listener()
    with progress.reporting_to(notes):
        crops = lr_crops(folder, 4, 11, 11, seed=3)
    assert len(crops) == 11
    assert {crop.shape for crop in crops} == {(11, 11, 3)}
    assert len(notes.notes) == 2
    sources = [_source(crop, PairFolder(folder, 4)) for crop in crops]
    assert sorted(sources.count(name) for name in set(sources)) == [2, 3, 3, 3]
    assert len(set(sources[:4])) == 4
    again = lr_crops(folder, 4, 11, 11, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(crops, again, strict=True))
    other = lr_crops(folder, 4, 11, 11, seed=4)
    assert not all(np.array_equal(a, b) for a, b in zip(crops, other, strict=True))


def _source(crop: np.ndarray, pairs: PairFolder) -> str:
    """The picture whose LR holds this crop."""
    for pair in pairs:
        windows = np.lib.stride_tricks.sliding_window_view(pair.lr, crop.shape)
        if (windows[:, :, 0] == crop).all(axis=(2, 3, 4)).any():
            return pair.name
    raise AssertionError("a crop that is in no LR picture")


def test_pictures_too_small_for_the_crop_are_named(folder: Path) -> None:
    notes = Listener()
    with progress.reporting_to(notes):
        crops = lr_crops(folder, 4, 3, 14)
    assert len(crops) == 3
    assert any("smaller than 56x56" in line and "p2.png" in line and "p4.png" in line for line in notes.notes)


@pytest.mark.parametrize("color", list(Color))
def test_patches_are_aligned_and_a_function_of_seed_and_index(folder: Path, color: Color) -> None:
    io = SRFormat(2, color, 1.0)
    data = PatchDataset([folder, folder], io, patch=8, length=100, seed=5)
    assert data.pictures == 8
    lr, hr = data[17]
    assert lr.shape == (io.channels, 8, 8)
    assert hr.shape == (io.channels, 16, 16)
    assert lr.dtype == torch.float32
    assert 0 <= float(lr.min()) <= float(lr.max()) <= 1
    restarted = PatchDataset([folder, folder], io, patch=8, length=100, seed=5, cache_bytes=0)
    assert all(torch.equal(a, b) for a, b in zip(restarted[17], (lr, hr), strict=True))
    assert not torch.equal(PatchDataset([folder], io, 8, 100, seed=6)[17][0], lr)
    with pytest.raises(IndexError):
        data[100]


def test_patch_pairs_belong_together_under_every_turn(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(96) * 2, np.arange(96)).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    (tmp_path / "f").mkdir()
    Image.fromarray(ramp[:80, :80]).save(tmp_path / "f" / "ramp.png")
    data = PatchDataset([tmp_path / "f"], SRFormat(2, Color.RGB, 255.0), patch=12, length=64)
    directions = set()
    for index in range(64):
        lr, hr = data.patch(index)
        shrunk = hr.astype(float).reshape(12, 2, 12, 2, 3).mean(axis=(1, 3))
        # Away from the border, where mirroring bends the ramp, shrinking a plane is averaging it.
        assert np.abs(shrunk - lr)[2:-2, 2:-2].max() < 2
        directions.add((np.sign(int(lr[9, 5, 0]) - int(lr[2, 5, 0])), abs(int(lr[9, 5, 0]) - int(lr[2, 5, 0])) > 20))
    assert len(directions) == 4


def test_a_share_of_the_patches_is_stretched_to_black_and_white(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(96) * 2, np.arange(96)).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    Image.fromarray(ramp[:80, :80]).save(tmp_path / "ramp.png")
    io = SRFormat(2, Color.RGB, 255.0)
    plain = PatchDataset([tmp_path], io, patch=12, length=200, augment=False)
    mixed = PatchDataset([tmp_path], io, patch=12, length=200, augment=False, stretched=0.3)
    changed = []
    for index in range(200):
        before, after = plain.patch(index), mixed.patch(index)
        if all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
            continue
        changed.append(float(np.isin(after[1], (0, 255)).mean()))
        both = [np.concatenate([lr.ravel(), hr.ravel()]).astype(int) for lr, hr in (before, after)]
        order = np.argsort(both[0])
        # One curve of levels for both sides, which never falls.
        assert (np.diff(both[1][order]) >= 0).all()
    assert 40 < len(changed) < 80
    assert np.mean(changed) > 0.3


def test_training_refusals(folder: Path) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        PatchDataset([folder], SRFormat(4, Color.RGB, 1.0), patch=8, length=1, stretched=1.5)
    with pytest.raises(DataError, match="training"):
        PatchDataset([folder], SRFormat(4, Color.RGB, 1.0), patch=64, length=1)
    with pytest.raises(UsageError, match="folders"):
        PatchDataset([], SRFormat(4, Color.RGB, 1.0), patch=8, length=1)


def test_ordered_map_keeps_order_and_bounds_what_is_in_flight() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item * item

    results = ordered_map(work, range(10_000))
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    results.close()
    assert len(started) < 1000
    assert list(ordered_map(work, [3, 1, 2])) == [9, 1, 4]
