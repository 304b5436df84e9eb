from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bitwright.foundation.errors import DataError, UsageError, VerificationError
from workloads.super_resolution.bicubic import upscale
from workloads.super_resolution.color import luma, rgb_to_ycbcr
from workloads.super_resolution.format import Color, Luma, SRFormat
from workloads.super_resolution.metrics import MAX_PSNR, WHOLE_LUMA, psnr
from workloads.super_resolution.network_format import to_network
from workloads.super_resolution.task import SRSample, SuperResolution
from workloads.workload import Predict, Sample

RGB = SRFormat(4, Color.RGB, 255.0)
FORMATS = [
    RGB,
    SRFormat(3, Color.RGB, 1.0),
    SRFormat(2, Color.Y, 1.0),
    SRFormat(2, Color.Y, 255.0),
    SRFormat(2, Color.Y, 1.0, Luma.FULL),
]


def _bicubic(io: SRFormat) -> Predict:
    """Plain bicubic enlargement as an RGB network."""

    def predict(x: Tensor) -> Tensor:
        pixels = (x[0] * (255 / io.value_max)).round().byte().permute(1, 2, 0).numpy()
        return to_network(upscale(pixels, io.scale), io)

    return predict


@pytest.mark.data
@pytest.mark.parametrize(("scale", "published"), [(2, 33.67), (3, 30.40), (4, 28.43)])
@pytest.mark.parametrize("value_max", [1.0, 255.0])
def test_plain_bicubic_on_set5(data: Path, scale: int, published: float, value_max: float) -> None:
    task = SuperResolution(SRFormat(scale, Color.RGB, value_max))
    quality = task.evaluate(_bicubic(task.io), task.samples(data / "sr" / "test" / "Set5"))
    assert round(quality.mean, 2) == published
    assert (quality.metric, quality.unit) == ("PSNR-Y", "dB")
    assert list(quality.per_sample) == ["baby.png", "bird.png", "butterfly.png", "head.png", "woman.png"]
    assert quality.mean == pytest.approx(np.mean(list(quality.per_sample.values())))
    # What papers report; they differ in where they round, which moves SSIM by about a thousandth.
    assert quality.extra["SSIM-Y"] == pytest.approx({2: 0.9299, 3: 0.8682, 4: 0.8104}[scale], abs=1.5e-3)


def test_published_code_rounds_luma_and_removes_four_pixels_at_any_scale() -> None:
    task = SuperResolution(SRFormat(2, Color.RGB, 255.0), WHOLE_LUMA)
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 256, (1, 3, 24, 24), generator=generator).float()
    output = (target + torch.randint(-3, 4, target.shape, generator=generator)).clamp(0, 255)
    output[..., :4, :] = 0
    sample = SRSample(
        "a", torch.zeros(1, 3, 12, 12), target, np.zeros((12, 12, 3), np.uint8), np.zeros((24, 24, 3), np.uint8)
    )
    ours, wanted = (
        luma(np.moveaxis(image[0].numpy(), 0, -1).astype(np.uint8)).round()[4:20, 4:20] for image in (output, target)
    )
    assert task.psnr_y(output, sample) == psnr(ours, wanted)
    assert SuperResolution(task.io).psnr_y(output, sample) < task.psnr_y(output, sample)


@pytest.mark.data
@pytest.mark.parametrize(("scale", "published"), [(2, 37.138), (4, 30.513)])
def test_y_network_is_scored_on_its_unrounded_luma(data: Path, scale: int, published: float) -> None:
    weights = torch.load(data / "checkpoints" / f"fsrcnn_x{scale}.pth", map_location="cpu", weights_only=True)
    task = SuperResolution(SRFormat(scale, Color.Y, 1.0))
    quality = task.evaluate(_fsrcnn(weights, scale), task.samples(data / "sr" / "test" / "Set5"))
    assert quality.mean == pytest.approx(published, abs=1e-3)


@pytest.mark.data
def test_full_range_luma_is_scored_on_the_studio_range(data: Path) -> None:
    weights = torch.load(data / "checkpoints" / "espcn_x2.pth", map_location="cpu", weights_only=True)
    task = SuperResolution(SRFormat(2, Color.Y, 1.0, Luma.FULL))

    def predict(x: Tensor) -> Tensor:
        conv = torch.nn.functional.conv2d
        for number, padding in ((1, 2), (2, 1)):
            x = conv(x, weights[f"conv{number}.weight"], weights[f"conv{number}.bias"], padding=padding).relu()
        x = conv(x, weights["conv3.weight"], weights["conv3.bias"], padding=1)
        return torch.nn.functional.pixel_shuffle(x, 2).tanh()

    assert task.evaluate(predict, task.samples(data / "sr" / "test" / "Set5")).mean == pytest.approx(34.79, abs=5e-3)


def _fsrcnn(weights: dict[str, Tensor], scale: int) -> Predict:
    """FSRCNN from its state dict: 5x5, six inner convolutions, each with PReLU, and a transposed 9x9."""
    functional = torch.nn.functional
    layers = [("first_part.0", "first_part.1"), *((f"mid_part.{i}", f"mid_part.{i + 1}") for i in range(0, 12, 2))]

    def predict(x: Tensor) -> Tensor:
        for conv, slope in layers:
            kernel = weights[f"{conv}.weight"]
            x = functional.conv2d(x, kernel, weights[f"{conv}.bias"], padding=kernel.shape[-1] // 2)
            x = functional.prelu(x, weights[f"{slope}.weight"])
        kernel, bias = weights["last_part.weight"], weights["last_part.bias"]
        return functional.conv_transpose2d(x, kernel, bias, stride=scale, padding=4, output_padding=scale - 1)

    return predict


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for name, side in (("a.png", 60), ("b.png", 72), ("small.png", 19)):
        Image.fromarray(draw.integers(0, 256, (side, side + 1, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("io", FORMATS)
def test_formats_are_consistent(io: SRFormat, folder: Path) -> None:
    task = SuperResolution(io)
    samples = task.samples(folder)
    assert samples[0].input.shape[1] == samples[0].target.shape[1] == io.channels
    assert samples[0].target.shape[2] == samples[0].input.shape[2] * io.scale
    assert samples[0].input.dtype == torch.float32
    assert io.value_max * 0.9 < float(samples[0].target.max()) <= io.value_max
    for sample in samples:
        assert task.psnr_y(sample.target, sample) == MAX_PSNR
        assert float(task.loss(sample.target, sample.target)) == 0
        # A shift by one grey level of the network's channels; RGB by 1 is Y by 219/255, and so is full-range Y.
        shifted = sample.target.clamp(0, io.value_max * 254 / 255) + io.value_max / 255
        flat = task.psnr_y(shifted, replace(sample, target=shifted - io.value_max / 255))
        studio = io.color is Color.Y and io.luma is Luma.STUDIO
        assert flat == pytest.approx(48.1308 + (0 if studio else 20 * np.log10(255 / 219)), abs=1e-3)
        assert float(task.loss(shifted, shifted - io.value_max / 255)) == pytest.approx(1 / 255, rel=1e-4)


def test_samples_skip_what_network_or_metric_cannot_take(folder: Path) -> None:
    assert [s.name for s in SuperResolution(RGB).samples(folder)] == ["a.png", "b.png"]
    assert len(SuperResolution(SRFormat(2, Color.RGB, 1.0)).samples(folder)) == 3
    assert [s.name for s in SuperResolution(replace(RGB, min_input_side=16)).samples(folder)] == ["b.png"]
    assert len(SuperResolution(RGB).samples(folder, limit=1)) == 1
    assert [s.name for s in SuperResolution(RGB).samples(folder)[1:]] == ["b.png"]
    with pytest.raises(DataError, match="evaluation"):
        SuperResolution(replace(RGB, min_input_side=100)).samples(folder)


def test_smallest_sample_can_be_scored(tmp_path: Path) -> None:
    for scale in (2, 3, 4):
        side = (2 + -(-11 // scale)) * scale
        Image.fromarray(np.full((side, side, 3), 9, np.uint8)).save(tmp_path / "least.png")
        task = SuperResolution(SRFormat(scale, Color.RGB, 1.0))
        quality = task.evaluate(_bicubic(task.io), task.samples(tmp_path))
        assert quality.mean == MAX_PSNR
        assert quality.extra["SSIM-Y"] == pytest.approx(1.0)


def test_output_is_clipped_and_rounded_before_scoring(folder: Path) -> None:
    task = SuperResolution(RGB)
    sample = task.samples(folder)[0]
    beyond = torch.where(sample.target == 255, sample.target + 50, sample.target)
    beyond = torch.where(sample.target == 0, sample.target - 50, beyond)
    assert task.psnr_y(beyond, sample) == MAX_PSNR
    assert task.psnr_y(sample.target + 0.49, sample) == MAX_PSNR
    assert task.psnr_y(sample.target + 0.51, sample) < 60


@pytest.mark.parametrize("io", FORMATS)
def test_calibration(io: SRFormat, folder: Path) -> None:
    crops = SuperResolution(io).calibration(folder, 5, 12, seed=1)
    assert crops.shape == (5, io.channels, 12, 12)
    assert torch.equal(crops, SuperResolution(io).calibration(folder, 5, 12, seed=1))
    assert 0 <= float(crops.min()) < float(crops.max()) <= io.value_max
    with pytest.raises(UsageError, match="at least 1 crop"):
        SuperResolution(io).calibration(folder, 0, 12)


@pytest.mark.parametrize("io", FORMATS)
def test_example_input_is_natural_at_any_size(io: SRFormat) -> None:
    task = SuperResolution(io)
    for size in ((1, 1), (128, 96), (1080, 1921)):
        x = task.example_input(*size)
        assert x.shape == (1, io.channels, *size)
    large = task.example_input(1100, 700) / io.value_max
    assert 0.1 < float(large.std()) < 0.4
    # Mirrored, so the picture goes on without a jump.
    assert torch.equal(large[..., 511, :], large[..., 512, :])
    assert torch.equal(large[..., 1023, :], large[..., 0, :])


@pytest.mark.parametrize("io", FORMATS)
def test_to_image(io: SRFormat, folder: Path) -> None:
    task = SuperResolution(io)
    sample = task.samples(folder)[0]
    image = task.to_image(sample.target, sample)
    assert image.shape == sample.hr.shape
    assert image.dtype == np.uint8
    if io.color is Color.RGB:
        np.testing.assert_array_equal(image, sample.hr)
    else:
        grey = task.to_image(sample.target, Sample(sample.name, sample.input, sample.target))
        assert np.array_equal(grey[:, :, 0], grey[:, :, 2])
        assert not np.array_equal(image[:, :, 0], image[:, :, 2])


def test_y_picture_takes_luma_from_the_network_and_chroma_from_the_lr() -> None:
    ramp = np.linspace(60, 180, 24).astype(np.uint8)
    hr = np.stack([np.tile(ramp, (24, 1)), np.tile(ramp[:, None], (1, 24)), np.full((24, 24), 90, np.uint8)], axis=2)
    io = SRFormat(2, Color.Y, 1.0)
    lr = np.ascontiguousarray(hr[::2, ::2])
    sample = SRSample("x", to_network(lr, io), to_network(hr, io), lr, hr)
    image = SuperResolution(io).to_image(sample.target, sample)
    made, expected, chroma = rgb_to_ycbcr(image), rgb_to_ycbcr(hr), rgb_to_ycbcr(upscale(lr, 2))
    assert np.abs(made[:, :, 0] - expected[:, :, 0]).max() < 0.6
    assert np.abs(made[:, :, 1:] - chroma[:, :, 1:]).max() < 0.6


def test_refusals(folder: Path) -> None:
    task = SuperResolution(RGB)
    samples = task.samples(folder)
    with pytest.raises(UsageError, match=r"gave \[1, 3, 15, 15\] where \[1, 3, 60, 60\] is needed at scale 4"):
        task.evaluate(lambda x: x, samples)
    with pytest.raises(VerificationError, match="NaN"):
        task.evaluate(lambda x: torch.full((1, 3, x.shape[2] * 4, x.shape[3] * 4), float("nan")), samples)
    with pytest.raises(UsageError, match="no sample"):
        task.evaluate(lambda x: x, [])
    with pytest.raises(UsageError, match="empty"):
        task.example_input(0, 5)


def test_a_large_input_goes_by_windows_where_the_halo_is_finite() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.PixelShuffle(2))
    sizes: list[tuple[int, ...]] = []

    def predict(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape[-2:]))
        with torch.inference_mode():
            return network(x)

    x = torch.rand(1, 3, 1000, 1600)
    by_windows = SuperResolution(SRFormat(2, Color.RGB, 1.0, halo=2)).bounded(predict, x)
    assert len(sizes) > 1
    assert max(side for size in sizes for side in size) <= 512
    whole = SuperResolution(SRFormat(2, Color.RGB, 1.0, halo=None)).bounded(predict, x)
    assert sizes[-1] == (1000, 1600)
    assert torch.allclose(by_windows, whole, atol=1e-5)


def test_a_picture_too_large_for_a_network_without_a_halo_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 2200), (90, 120, 60)).save(tmp_path / "large.png")
    Image.new("RGB", (64, 64), (90, 120, 60)).save(tmp_path / "small.png")
    whole = SuperResolution(SRFormat(2, Color.RGB, 1.0, halo=None)).samples(tmp_path)
    assert [sample.name for sample in whole] == ["small.png"]
    assert len(SuperResolution(SRFormat(2, Color.RGB, 1.0, halo=2)).samples(tmp_path)) == 2
