"""A report whose values are made up by construction, and a run folder with real picture files for it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image, ImageFilter
from skimage import data as embedded

from bitwright.report.measured import Latency, LatencyStats, Speedup
from bitwright.report.schema import (
    AuditedLayer,
    AuditResult,
    BitOpsTotal,
    Dataset,
    Device,
    Layer,
    Limits,
    ModelInfo,
    Picture,
    PlanStep,
    Quality,
    Report,
    RuntimeInfo,
    Score,
    Size,
)

NAMES = ("baboon", "barbara", "bridge", "coastguard", "comic", "face", "flowers", "foreman", "lenna", "man")
BEFORE = {name: 24.0 + 0.9 * index for index, name in enumerate(NAMES)}
AFTER = {name: value - (0.02 + 0.037 * (index * 7 % 10)) + 0.06 for index, (name, value) in enumerate(BEFORE.items())}


def stats(median: float, n: int, spread: float, p90: bool = True) -> LatencyStats:
    """A right-skewed distribution by formula: no clock was involved."""
    quantiles = [((index * 0.41421356 + 0.31) % 1) for index in range(n)]
    samples = [median * (1 + spread * (-math.log(1 - 0.999 * q) - math.log(2))) for q in quantiles]
    return LatencyStats(
        median_ms=median,
        median_low_ms=median * (1 - spread / 6),
        median_high_ms=median * (1 + spread / 6),
        p90_ms=median * (1 + spread * 1.61) if p90 else None,
        n=n,
        iqr_ms=median * spread * 1.1,
        cv=spread,
        samples_ms=tuple(samples),
        peak_rss_bytes=212_000_000,
        load_ms=184.2,
    )


def layer(index: int) -> Layer:
    """The `index`-th layer of the made-up network: the last ones stay in bf16."""
    name = f"body.{index // 5}.{('c1_d', 'c1_r', 'c2_d', 'c5', 'esa.conv3')[index % 5]}"
    precision, bits = ("int8", 8) if index < 22 else ("bf16", 16)
    macs = (index * 37 % 11 + 1) * 33_000_000
    return Layer(
        name=name,
        op="Conv",
        input_shape=(1, 52, 128, 128),
        output_shape=(1, 52, 128, 128),
        macs=macs,
        params=23_452,
        weight_bits=bits,
        act_bits=bits,
        planned=precision,
        executed=precision,
        bitops=macs * bits * bits,
        sensitivity_db=None if index == 3 else 0.002 + 0.0011 * (index * 13 % 24),
        estimated_ms=None if index == 4 else macs / 60e6,
        kernel=None if index == 5 else f"jit_avx512_core_{precision}",
    )


def picture(run: Path, name: str, image: Image.Image) -> Picture:
    """Write four versions of a 256 x 256 crop; the blurred one stands for float, fewer colours for the engine."""
    left, top = image.width // 2 - 128, image.height // 4
    crop = image.crop((left, top, left + 256, top + 256))
    low = crop.resize((64, 64), Image.Resampling.BICUBIC)
    restored = low.resize((256, 256), Image.Resampling.LANCZOS).filter(ImageFilter.UnsharpMask(2, 120))
    versions = {"lr": low, "float": restored, "engine": restored.quantize(96).convert("RGB"), "hr": crop}
    paths = {}
    (run / "pictures").mkdir(exist_ok=True)
    for key, version in versions.items():
        paths[key] = f"pictures/{name}_{key}.png"
        version.save(run / paths[key])
    return Picture(
        name=name,
        low_res=paths["lr"],
        float_png=paths["float"],
        engine_png=paths["engine"],
        reference_png=paths["hr"],
        psnr_float=29.113,
        psnr_engine=29.031,
        crop=(left, top, left + 256, top + 256),
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """An empty run folder; `report` writes its pictures into it."""
    return tmp_path


@pytest.fixture
def report(run_folder: Path) -> Report:
    """A complete report of a run that never happened."""
    layers = tuple(layer(index) for index in range(24))
    before, after = (sum(values.values()) / len(values) for values in (BEFORE, AFTER))
    pictures = (
        picture(run_folder, "astronaut", Image.fromarray(embedded.astronaut())),
        picture(run_folder, "coffee", Image.fromarray(embedded.coffee())),
    )
    return Report(
        bitwright_version="0.1.0",
        created=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        model=ModelInfo(architecture="RFDN ×4", path="rfdn_x4.pth", sha256="ab" * 32, parameters=433_448),
        device=Device(id="x86-avx512-vnni-bf16", name="x86 server, AVX512 VNNI + BF16", hash="sha256:" + "cd" * 8),
        runtime=RuntimeInfo(name="OpenVINO", version="2026.2.1", float_precision="bf16", threads=1),
        quality=Quality(
            metric="PSNR-Y",
            unit="dB",
            float=Score(mean=before, per_image=BEFORE, extra={"SSIM-Y": 0.7842}),
            torch=Score(mean=after + 0.004, extra={"SSIM-Y": 0.7813}),
            engine=Score(mean=after, per_image=AFTER, extra={"SSIM-Y": 0.7811}),
            drop=before - after,
            torch_engine_gap=0.004,
            dataset=Dataset(folder="Set14", n=10, data_hash="sha256:" + "ef" * 8),
            decided_on="sr/train, 64 crops",
        ),
        latency=Latency(
            engine=stats(171.4, 300, 0.018),
            float=stats(549.8, 120, 0.012),
            speedup=Speedup(ratio=3.208, low=3.171, high=3.244, verdict="Faster"),
            input_shape=(1, 3, 128, 128),
            threads=1,
            noisy=False,
        ),
        audit=AuditResult(
            planned={"int8": 22, "bf16": 2},
            executed={"int8": 22, "bf16": 2},
            layers=tuple(
                AuditedLayer(layer=item.name, planned=item.planned, executed=item.executed, kernel=item.kernel)
                for item in layers
            ),
        ),
        layers=layers,
        size=Size(bytes=611_000, float_bytes=1_752_000),
        bitops=BitOpsTotal(planned=476_000_000_000, float=6_950_000_000_000, ratio=14.6),
        limits=Limits(max_drop_db=0.15, reached=True),
        pictures=pictures,
        plan_search=(
            PlanStep(step=1, quantized_layers=24, drop_db=0.214, note="everything legal"),
            PlanStep(step=2, quantized_layers=18, drop_db=0.081, note="most sensitive six in bf16"),
            PlanStep(step=3, quantized_layers=22, drop_db=0.118, chosen=True, note="largest plan within the limit"),
            PlanStep(step=4, quantized_layers=23, drop_db=0.163, note="over the limit"),
        ),
        timings_s={"sensitivity": 141.0, "calibration": 38.2, "rounding": 264.0, "export": 9.4, "latency": 92.0},
        warnings=("2 images were skipped: broken.jpg (truncated), tiny.png (1×1)",),
        environment={"cpu": "made-up processor", "cores": 2, "governor": None, "flags": ["avx512_vnni", "avx512_bf16"]},
        command=("bitwright", "compress", "rfdn_x4.pth", "--device", "x86-avx512-vnni-bf16", "--data", "my photos"),
        next_command="bitwright verify runs/rfdn",
    )
