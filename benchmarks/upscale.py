"""A 4K picture enlarged by networks in 8 bits, in bounded memory: `python -m benchmarks.upscale --data-root DIR`.

Each engine is made by `bitwright compress`, by nearest rounding, and used by `bitwright upscale` in a process of its
own, whose largest resident set is read from outside. What tiles cost is measured on a photograph that fits: the same
command with tiles as large as the picture, and with tiles of at most `FITTING_TILE`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import command
from benchmarks.arms import claim
from benchmarks.common import markdown_table, write_results
from benchmarks.main_job_arms import Settings, bitwright_arm, names_of
from bitwright.foundation.errors import BitwrightError, UsageError
from bitwright.foundation.files import write_json
from bitwright.foundation.progress import note
from bitwright.runs.upscale_request import GIB
from deploy.environment import Environment
from deploy.latency.foreign_load import CpuReading
from deploy.latency.timing import process_memory
from workloads.super_resolution.metrics import psnr

FITTING_TILE = 512
LIMIT = 5.0
"""Allowed drop, dB: no layer is left in float for its quality."""
BLOCK = (320, 480)
"""Height and width of what each photograph gives to the mosaic."""
EVERY_S = 0.02
TITLES = (
    "engine", "tile", "overlap", "seconds", "peak GiB", "limit GiB", "PSNR to untiled dB", "largest", "mean difference"
)  # fmt: skip


def mosaic(folder: Path, height: int, width: int) -> NDArray[np.uint8]:
    """A picture [height, width, 3] of parts of a folder's photographs, in the order of their names."""
    files = iter(sorted(folder.rglob("*.jpg")))
    canvas = np.zeros((height, width, 3), np.uint8)
    for top in range(0, height, BLOCK[0]):
        for left in range(0, width, BLOCK[1]):
            path = next(files, None)
            if path is None:
                raise UsageError(f"{folder} holds too few photographs for {width}x{height} pixels")
            with Image.open(path) as image:
                photo = np.asarray(image.convert("RGB"))
            # Those that stand upright are laid on their side.
            photo = photo if photo.shape[0] <= photo.shape[1] else np.rot90(photo)
            place = canvas[top : top + BLOCK[0], left : left + BLOCK[1]]
            place[:] = photo[: place.shape[0], : place.shape[1]]
    return canvas


def differences(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> dict[str, float | None]:
    """PSNR in dB over all channels (None for equal pictures), largest and mean difference in 8-bit grey levels."""
    error = np.abs(a.astype(np.int16) - b)
    flat = [picture.reshape(len(picture), -1).astype(np.float64) for picture in (a, b)]
    return {"psnr_db": psnr(*flat) if error.any() else None, "largest": float(error.max()), "mean": float(error.mean())}


def upscaled(run: Path, picture: Path, out: Path, given: argparse.Namespace, *more: str) -> dict[str, Any]:
    """`bitwright upscale` in a process of its own: what it told, and what was seen from outside.

    That is `peak_bytes`, `wall_s`, and `foreign_cores`, which others kept busy meanwhile.
    """
    words = ["upscale", run, picture, "--out", out, "--threads", given.threads, "--overwrite", "--json", *more]
    started, peak = time.monotonic(), 0
    with (out.parent / f"{out.stem}.json").open("w+b") as told, (out.parent / f"{out.stem}.log").open("w+b") as log:
        process = subprocess.Popen([sys.executable, "-m", "bitwright", *map(str, words)], stdout=told, stderr=log)
        before = last = CpuReading.take([process.pid])
        while process.poll() is None:
            peak, last = max(peak, process_memory("VmHWM", process.pid) or 0), CpuReading.take([process.pid])
            time.sleep(EVERY_S)
        if process.returncode:
            log.seek(0)
            message = log.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise BitwrightError(f"bitwright upscale ended with {process.returncode}: {message}")
        told.seek(0)
        seen = {"peak_bytes": peak, "wall_s": time.monotonic() - started}
        return {**json.loads(told.read()), **seen, "foreign_cores": before.foreign_cores_until(last)}


def measured(given: argparse.Namespace, name: str, runtime: str, large: Path, fitting: Path) -> dict[str, Any]:
    """The figures of one engine; what was measured before is read."""
    network = command.network_of(given, name)
    settings = Settings.of(given, network, "reconstruct=false", "measure_seconds=0.5")
    asked = {key: str(getattr(given, key)) for key in ("memory", "width", "height", "threads", "fitting")}
    claim(network, {**settings.decisive(), **asked})
    folder = network.work / runtime
    kept = folder / "figures.json"
    if kept.is_file():
        note(f"{name}, {runtime}: done before")
        figures: dict[str, Any] = json.loads(kept.read_bytes())
        return figures
    note(f"{name}, {runtime}")
    options = (*settings.options, f"runtime={runtime}")
    bitwright_arm(network, replace(settings, options=options), LIMIT, folder)
    run = folder / "run"
    job = upscaled(run, large, folder / "large.png", given, "--memory", given.memory)
    picture = job["pictures"][0]
    (folder / "large.png").unlink()
    whole, tiles = folder / "whole.png", folder / "tiles.png"
    with Image.open(fitting) as image:
        side = max(image.size)
    tile = min(job["tiling"]["tile"], FITTING_TILE)
    upscaled(run, fitting, whole, given, "--memory", "64G", "--tile", str(side))
    seams = upscaled(run, fitting, tiles, given, "--memory", "64G", "--tile", str(tile))["pictures"][0]
    with Image.open(whole) as first, Image.open(tiles) as second:
        fits = {"tile": tile, "size": list(first.size), **differences(np.asarray(first), np.asarray(second))}
    fits |= {"seam_largest": seams["seam_largest"], "seam_mean": seams["seam_mean"]}
    figures = {
        "network": name, "runtime": runtime, "size": [picture["width"], picture["height"]], "tiling": job["tiling"],
        "memory": job["memory"], "peak_bytes": job["peak_bytes"], "seconds": picture["seconds"],
        "wall_s": job["wall_s"], "foreign_cores": job["foreign_cores"], "seam_largest": picture["seam_largest"],
        "seam_mean": picture["seam_mean"], "tiled_and_untiled": fits,
        "environment": Environment.record().model_dump(mode="json"),
    }  # fmt: skip
    write_json(kept, figures)
    return figures


def row_of(figures: dict[str, Any]) -> list[str]:
    """The cells of one engine."""
    tiling, fits = figures["tiling"], figures["tiled_and_untiled"]
    return [
        f"{figures['network']} int8, {figures['runtime']}", str(tiling["tile"]), str(tiling["overlap"]),
        f"{figures['seconds']:.0f}", f"{figures['peak_bytes'] / GIB:.2f}", f"{figures['memory']['limit'] / GIB:.2f}",
        "equal" if fits["psnr_db"] is None else f"{fits['psnr_db']:.1f}", f"{fits['largest']:.0f}",
        f"{fits['mean']:.3f}",
    ]  # fmt: skip


def benchmark(given: argparse.Namespace) -> str:
    """Measure all engines, write the results and return the text of the table."""
    work = given.out / command.WORK
    work.mkdir(parents=True, exist_ok=True)
    large, fitting = work / "large.png", given.data_root / given.fitting
    if not fitting.is_file():
        raise UsageError(f"{fitting} does not exist; give another --fitting")
    Image.fromarray(mosaic(given.data_root / "sr" / "train" / "BSDS500", given.height, given.width)).save(large)
    rows: list[dict[str, Any]] = []
    text = ""
    for name in names_of(given.networks):
        for runtime in names_of(given.runtimes):
            rows.append(measured(given, name, runtime, large, fitting))
            size, busy = "x".join(map(str, rows[0]["size"])), max(row["foreign_cores"] for row in rows)
            text = (
                f"{given.width}x{given.height} pixels, a mosaic of photographs, enlarged to {size} by `bitwright "
                f"upscale` with --memory {given.memory}, threads: {given.threads}; "
                f"{rows[0]['environment']['cpu_model']}. Others kept up to {busy:.1f} cores busy meanwhile.\n"
                "Tiled and untiled are compared on one photograph that fits, in tiles of at most "
                f"{FITTING_TILE} pixels; differences in 8-bit grey levels.\n\n"
                f"{markdown_table(TITLES, [row_of(row) for row in rows])}"
            )
            write_results(given.out, "upscale", {"engines": rows}, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    parser = command.parser("Enlarge a 4K picture in bounded memory.", "benchmarks/results/upscale")
    parser.add_argument("--networks", default="rfdn_x4,espcn_x4", help="stems of checkpoints")
    parser.add_argument(
        "--runtimes", default="onnxruntime,openvino,litert,torch", help="runtimes of the device profile"
    )
    parser.add_argument("--memory", default="2G", help="what `bitwright upscale` may take")
    parser.add_argument("--width", type=int, default=3840, help="of the picture that is enlarged")
    parser.add_argument("--height", type=int, default=2160, help="of the picture that is enlarged")
    parser.add_argument("--fitting", default="sr/test/Urban100/img_001.png", help="a picture that fits, in --data-root")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of bitwright")
    given = parser.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
