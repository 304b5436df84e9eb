from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.foundation.errors import UsageError
from workloads.super_resolution.bicubic import crop_to_multiple, downscale, resize, upscale
from workloads.super_resolution.images import list_images, read_image


@pytest.mark.data
@pytest.mark.parametrize("name", ["Set5", "Set14"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_lr_images_bit_for_bit(data: Path, name: str, scale: int) -> None:
    images = list_images(data / "sr" / "test" / name)
    assert len(images) == int(name.removeprefix("Set"))
    for image in images:
        expected = read_image(data / "sr" / "test" / f"{name}_LR_bicubic" / f"X{scale}" / image.name)
        made = downscale(crop_to_multiple(read_image(image.path), scale), scale)
        np.testing.assert_array_equal(made, expected, err_msg=image.name)


def _reference_pass(image: np.ndarray, factor: float) -> np.ndarray:
    """One pass along axis 0 by the definition, one output pixel after the other, in floating point."""

    def cubic(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = 1.5 * x**3 - 2.5 * x**2 + 1
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    length, shrink = image.shape[0], min(factor, 1.0)
    out = []
    for position in range(int(np.ceil(length * factor - 1e-9))):
        centre = (position + 0.5) / factor - 0.5
        taps = np.arange(np.floor(centre - 2 / shrink), np.ceil(centre + 2 / shrink) + 1)
        weights = cubic((taps - centre) * shrink)
        folded = taps.astype(int) % (2 * length)
        folded = np.minimum(folded, 2 * length - 1 - folded)
        out.append(np.tensordot(weights / weights.sum(), image[folded].astype(float), axes=1))
    return np.clip(np.array(out), 0, 255)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.sampled_from(
        [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(2), Fraction(3), Fraction(3, 2), Fraction(5, 7)]
    ),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_any_factor_and_size_follows_the_definition(length: int, factor: Fraction, seed: int, across: bool) -> None:
    # Constant along the other axis, so that only one pass does something and its rounding is the only one.
    line = np.random.default_rng(seed).integers(0, 256, (length, 1), dtype=np.uint8)
    image = np.repeat(line, 9, axis=1)
    made = resize(image.T if across else image, factor)
    expected = _reference_pass(line, float(factor))
    made = made.T if across else made
    assert made.shape == (len(expected), int(np.ceil(9 * factor)))
    assert np.abs(made - expected).max() <= 0.5 + 1e-6


def test_golden_ramp_and_ties() -> None:
    ramp = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (8, 1))
    # A cubic kernel reproduces a straight line, so each LR pixel lies between its two middle pixels: 25, 45, ...
    assert downscale(ramp, 2)[2, 2:6].tolist() == [45, 65, 85, 105]
    # The exact mean is 0.5 there; MATLAB rounds ties away from zero.
    step = np.tile(np.array([[0, 0, 0, 0, 1, 1, 1, 1]], np.uint8).T, (1, 4))
    assert resize(step, Fraction(1, 8))[0, 0] == 1


def test_constant_images_stay_constant_at_any_scale() -> None:
    for level in (0, 1, 127, 255):
        image = np.full((7, 5, 3), level, np.uint8)
        for factor in (Fraction(1, 3), Fraction(2, 5), Fraction(3), Fraction(7, 4)):
            assert np.unique(resize(image, factor)).tolist() == [level]


def test_overshoot_is_clipped_not_wrapped() -> None:
    edge = np.zeros((16, 16), np.uint8)
    edge[:, 8:] = 255
    enlarged = upscale(edge, 4)
    assert enlarged[32].min() == 0
    assert enlarged[32].max() == 255
    assert np.all(np.diff(enlarged[32].astype(int)) >= 0)


def test_blocks_do_not_show_in_wide_images() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (40, 70_000), dtype=np.uint8)
    np.testing.assert_array_equal(downscale(wide, 4)[:, :400], downscale(wide[:, :1616], 4)[:, :400])


def test_crop_to_multiple() -> None:
    image = np.zeros((13, 11, 3), np.uint8)
    assert crop_to_multiple(image, 4).shape == (12, 8, 3)
    assert crop_to_multiple(image, 1).shape == (13, 11, 3)
    assert crop_to_multiple(image[:1, :1], 4).size == 0


@pytest.mark.parametrize(
    ("image", "factor"),
    [(np.zeros((4, 4), np.float32), 2), (np.zeros((0, 4), np.uint8), 2), (np.zeros((4, 4), np.uint8), 0)],
)
def test_refusals(image: np.ndarray, factor: int) -> None:
    with pytest.raises(UsageError, match=r"uint8|positive"):
        resize(image, factor)
