"""`bitwright upscale` on the engines of every runtime: no seams, the memory limit kept, and sizes that they take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import bitwright
from bitwright.foundation.errors import UsageError
from bitwright.runs.upscale_engine import picture_format
from bitwright.runs.upscale_tiles import choose
from deploy.engine import EngineSpec, Runtime, ShapeRange
from deploy.engines import SPEC_FILE, build_engine, read_spec
from hw_profiles import load_profile
from tests.bitwright.job_helpers import command, tiny_network
from tests.bitwright.upscale_helpers import (
    Pooled,
    enlarger,
    float_engine,
    int8_engine,
    photo,
    pixels,
    save,
    upscaled_apart,
    whole,
)
from tests.deploy.runtimes import TIMED_ON_CPU
from tests.marks import needs_compiler, needs_litert, needs_tensorrt_rtx
from workloads.super_resolution.format import Color, SRFormat

pytestmark = pytest.mark.engine
Capture = pytest.CaptureFixture[str]
NO_HALO = SRFormat(2, Color.RGB, 1.0)


@pytest.mark.parametrize("runtime", [runtime for runtime in TIMED_ON_CPU if runtime is not Runtime.TORCH])
def test_an_int8_engine_has_no_seams(data: Path, tmp_path: Path, runtime: Runtime) -> None:
    network, io = enlarger(data, "espcn_x3")
    built = int8_engine(network, io, tmp_path / "engine", runtime)
    picture = photo(140, 190)
    save(tmp_path, a=picture)
    done = bitwright.upscale(built, tmp_path / "a.png", out=tmp_path / "large.png", tile=48, threads=1, memory=16 << 30)
    difference = np.abs(pixels(tmp_path / "large.png").astype(int) - whole(built, picture))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert done.pictures[0].seam_largest is not None
    assert done.pictures[0].seam_largest <= 1


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(Runtime.LITERT, marks=needs_litert), pytest.param(Runtime.TORCH, marks=needs_compiler)],
)
def test_no_tile_that_is_tried_takes_more_memory_than_allowed(tmp_path: Path, runtime: Runtime) -> None:
    """Of engines whose artefact is no ONNX file, in processes of their own, which begin with nothing in memory."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(128, 12, 3, padding=1), nn.PixelShuffle(2)).eval()
    built = float_engine(network, replace(NO_HALO, halo=3), tmp_path / "engine", runtime)
    save(tmp_path, a=photo(300, 300))

    def with_memory(limit: int) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        out = tmp_path / f"{limit}.png"
        done = upscaled_apart(built, tmp_path / "a.png", out, "--memory", str(limit))
        return json.loads(done.stdout), pixels(out)

    wide, expected = with_memory(16 << 30)
    assert wide["tiling"]["tile"] == 256
    limit = wide["memory"]["estimate"] - (50 << 20)
    tight, found = with_memory(limit)
    assert 64 <= tight["tiling"]["tile"] < 256
    assert tight["memory"]["peak"] <= tight["memory"]["estimate"] <= limit
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_tiles_keep_to_the_sizes_that_a_compiled_engine_takes(tmp_path: Path, capsys: Capture) -> None:
    """A range on an engine that runs here; those that are compiled for one need a GPU."""
    built = float_engine(Pooled().eval(), NO_HALO, tmp_path / "engine")
    shapes = ShapeRange(smallest=(1, 3, 24, 24), usual=(1, 3, 64, 64), largest=(4, 3, 112, 96))
    spec = EngineSpec.model_validate_json((built / SPEC_FILE).read_bytes()).model_copy(update={"shapes": shapes})
    (built / SPEC_FILE).write_text(spec.model_dump_json())
    save(tmp_path / "in", a=photo(200, 210), low=photo(20, 90))
    words = ("upscale", built, tmp_path / "in", "--out", tmp_path / "out", "--memory", "16G", "--threads", "1")
    ended = command(capsys, *words, "--json")
    assert "low.png: it has 90x20 pixels and the network needs 24 a side" in ended.refusal()
    assert json.loads(ended.out)["tiling"]["tile"] == 96
    assert pixels(tmp_path / "out" / "a.png").shape == (400, 420, 3)
    for more, said in (
        (("--tile", "97"), "--tile 97: the engine takes 24 to 96 pixels a side; compress with a larger --input-size"),
        (("--batch", "5"), "--batch 5: the engine takes 1 to 4 tiles at once"),
        (("--overlap", "48"), "takes at most 96 pixels a side, too few for an overlap of 48; give an --overlap of 47"),
    ):
        assert said in command(capsys, *words, *more).refusal()


@needs_tensorrt_rtx
@pytest.mark.usefixtures("no_gpu")
def test_an_engine_for_a_gpu_says_that_it_enlarges_pictures(tmp_path: Path, capsys: Capture) -> None:
    network, device = tiny_network(), load_profile("rtx-3060")
    file = float_engine(network, network.io, tmp_path / "float") / "model.onnx"
    engine = tmp_path / "engine"
    build_engine(
        file, engine, runtime=Runtime.TENSORRT_RTX, profile=device.id, device=device, super_resolution=network.io
    )
    spec = read_spec(engine)
    assert spec.super_resolution == network.io
    assert spec.shapes == ShapeRange.around((1, 3, 128, 128))
    assert picture_format(engine, spec).min_input_side == 16
    assert choose(NO_HALO, tile=None, overlap=None, batch=4, shapes=spec.shapes).tile == 512
    with pytest.raises(UsageError, match="--batch 5: the engine takes 1 to 4 tiles"):
        choose(NO_HALO, tile=None, overlap=None, batch=5, shapes=spec.shapes)
    save(tmp_path, a=photo(60, 60))
    ended = command(capsys, "upscale", engine, tmp_path / "a.png", "--out", tmp_path / "b.png", "--memory", "16G")
    assert "model.engine cannot run here: it needs an NVIDIA GPU of compute capability 8.6" in ended.refusal(5)
