from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bitwright.foundation.errors import UsageError
from workloads.embedded.pictures import read_picture
from workloads.super_resolution.color import luma, rgb_to_ycbcr, studio_luma, ycbcr_to_rgb
from workloads.super_resolution.format import Luma
from workloads.super_resolution.metrics import MAX_PSNR, WHOLE_LUMA, psnr, shave, ssim


def _noisy(rgb: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, sigma, rgb.shape)
    return np.clip(np.rint(rgb + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [1.0, 8.0, 40.0])
@pytest.mark.parametrize("size", [(11, 11), (64, 37), (200, 301)])
def test_psnr_and_ssim_equal_scikit_image(sigma: float, size: tuple[int, int]) -> None:
    rgb = read_picture("coffee.png")[: size[0], : size[1]]
    a, b = luma(_noisy(rgb, sigma)), luma(rgb)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-9)
    # Its mean is taken over the pixels whose window lies inside the image (it crops 5 pixels), as ours.
    theirs = structural_similarity(b, a, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    assert ssim(a, b) == pytest.approx(theirs, abs=1e-9)


def test_uniform_window_equals_scikit_image() -> None:
    rgb = read_picture("coffee.png")[:90, :110]
    a, b = luma(_noisy(rgb, 6.0)).round(), luma(rgb).round()
    assert ssim(a, b, WHOLE_LUMA) == pytest.approx(structural_similarity(b, a, data_range=255), abs=1e-9)


def test_luma_equals_scikit_image_and_known_colours() -> None:
    rgb = read_picture("chelsea.png")[:50, :70]
    np.testing.assert_allclose(rgb_to_ycbcr(rgb), rgb2ycbcr(rgb), atol=1e-9)
    np.testing.assert_allclose(luma(rgb), rgb2ycbcr(rgb)[:, :, 0], atol=1e-9)
    corners = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]], np.uint8)
    np.testing.assert_allclose(luma(corners), [16, 235, 81.481, 40.966], atol=1e-9)
    np.testing.assert_allclose(luma(corners, Luma.FULL), [0, 255, 76.245, 29.07], atol=1e-9)


def test_full_range_luma_maps_onto_studio_range() -> None:
    rgb = read_picture("chelsea.png")[:40, :40]
    np.testing.assert_allclose(studio_luma(luma(rgb, Luma.FULL), Luma.FULL), luma(rgb), atol=1e-9)
    np.testing.assert_array_equal(studio_luma(luma(rgb), Luma.STUDIO), luma(rgb))


def test_colour_round_trip_is_lossless() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(ycbcr_to_rgb(rgb_to_ycbcr(rgb)), rgb)


def test_golden_psnr() -> None:
    target = np.full((20, 20), 100.0)
    assert psnr(target + 1, target) == pytest.approx(48.1308036, abs=1e-7)
    assert psnr(target + 255, target) == pytest.approx(0.0, abs=1e-9)
    assert psnr(target, target) == MAX_PSNR
    assert psnr(target + 1e-9, target) == MAX_PSNR


def test_ssim_bounds() -> None:
    y = luma(read_picture("astronaut.png"))[:64, :64]
    assert ssim(y, y) == pytest.approx(1.0, abs=1e-12)
    assert ssim(255 - y, y) < 0


def test_shave() -> None:
    y = np.arange(49, dtype=np.float64).reshape(7, 7)
    assert shave(y, 3).tolist() == [[24.0]]
    assert shave(y, 0).shape == (7, 7)
    with pytest.raises(UsageError, match="7x7"):
        shave(y, 4)


def test_refusals() -> None:
    small = np.zeros((10, 30))
    with pytest.raises(UsageError, match="11x11"):
        ssim(small, small)
    with pytest.raises(UsageError, match="cannot compare"):
        psnr(small, small.T)
