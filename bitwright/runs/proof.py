"""The proof of a run: quality on the engine and interleaved latency against the float baseline."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from bitwright.foundation.files import write_bytes, write_text
from bitwright.foundation.progress import note
from bitwright.runs.built import ENGINE, MODEL
from bitwright.runs.float_part import agreement
from bitwright.runs.job import Job
from bitwright.runs.stages import FLOAT
from compress.compressed import CompressedModel
from deploy.engine import Engine
from deploy.engines import load_engine
from deploy.latency import Candidate, ComparisonResult, LoadGate, measure
from deploy.latency.statistics import needed_samples
from deploy.remote import Protocol
from deploy.verify import VerifyReport, engine_predict
from workloads.super_resolution.task import SRSample, SuperResolution
from workloads.workload import Quality

QUALITY = "quality.json"
LATENCY = "latency.json"
ENGINE_NAME, BASELINE_NAME = "engine", "float"
NOT_RUN = "not_run"
ENERGY_SECONDS = 10.0
CROP = 192
PICTURES = 3


class QualityRecord(BaseModel):
    """Quality of the float engine, and of the compressed network in torch and as an engine, on the same samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    float_quality: Quality
    verify: VerifyReport
    pictures: tuple[dict[str, Any], ...]


def quality(job: Job) -> None:
    """Evaluate the float engine, the simulation and the engine, and cut picture crops for the report."""
    engine = load_engine(job.run.path / ENGINE, job.cores, device=job.profile)
    if _left_out(job, engine, "quality"):
        return
    model = CompressedModel.load(job.run.path / MODEL, job.graph)
    workload, samples = job.loaded.workload, job.eval_samples
    baseline = load_engine(job.run.path / FLOAT, job.cores)
    float_quality = workload.evaluate(engine_predict(baseline), samples)
    report = agreement(model, engine, samples, workload, job.request.tolerance)
    pictures: list[dict[str, Any]] = []
    if isinstance(workload, SuperResolution):
        losses = {n: float_quality.per_sample[n] - v for n, v in report.engine.per_sample.items()}
        worst = sorted(losses, key=lambda name: -losses[name])[:PICTURES]
        for sample in samples:
            if sample.name in worst and isinstance(sample, SRSample):
                pictures.append(_picture(job, workload, sample, baseline, engine))
        pictures.sort(key=lambda picture: worst.index(picture["name"]))
    record = QualityRecord(float_quality=float_quality, verify=report, pictures=tuple(pictures))
    write_text(job.run.path / QUALITY, record.model_dump_json(indent=1) + "\n")
    job.run.finish_stage("quality", [QUALITY, *(p[key] for p in pictures for key in _PICTURE_FILES)], {})


_PICTURE_FILES = ("low_res", "float_png", "engine_png", "reference_png")


def _picture(job: Job, workload: SuperResolution, sample: SRSample, baseline: Engine, engine: Engine) -> dict[str, Any]:
    """Crops of one picture where the engine differs most from the float network."""
    before = workload.to_image(workload.bounded(engine_predict(baseline), sample.input), sample)
    after = workload.to_image(workload.bounded(engine_predict(engine), sample.input), sample)
    scale = workload.io.scale
    side = min(CROP // scale * scale, before.shape[0], before.shape[1])
    top, left = _busiest(np.abs(before.astype(np.float32) - after).mean(2), side, scale)
    box = (slice(top, top + side), slice(left, left + side))
    low = sample.lr[top // scale : (top + side) // scale, left // scale : (left + side) // scale]
    stem = Path(sample.name).with_suffix("").as_posix().replace("/", "_")
    files = {}
    for key, image in zip(_PICTURE_FILES, (low, before[box], after[box], sample.hr[box]), strict=True):
        files[key] = f"pictures/{stem}-{key.removesuffix('_png')}.png"
        write_bytes(job.run.path / files[key], _png(image))
    scores = {
        f"psnr_{name}": _crop_psnr(image[box], sample.hr[box]) for name, image in (("float", before), ("engine", after))
    }
    return {"name": sample.name, **files, **scores, "crop": [left, top, left + side, top + side]}


def _busiest(difference: NDArray[Any], side: int, step: int) -> tuple[int, int]:
    """Top left corner, on a grid of `step`, of the window with the largest mean difference."""
    sums = np.pad(difference.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows = np.arange(0, difference.shape[0] - side + 1, step)
    columns = np.arange(0, difference.shape[1] - side + 1, step)
    windows = (
        sums[np.ix_(rows + side, columns + side)] - sums[np.ix_(rows, columns + side)]
        - sums[np.ix_(rows + side, columns)] + sums[np.ix_(rows, columns)]
    )  # fmt: skip
    row, column = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(rows[row]), int(columns[column])


def _crop_psnr(image: NDArray[Any], reference: NDArray[Any]) -> float | None:
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return None if error == 0 else float(10 * np.log10(255.0**2 / error))


def _png(image: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def latency(job: Job) -> None:
    """Time the engine and the float baseline in turn, each in a process of its own."""
    request = job.request
    if job.why_not_timed is not None:
        note(f"latency: not measured, {job.why_not_timed}")
        job.run.finish_stage("latency", [], {NOT_RUN: job.why_not_timed})
        return
    if _left_out(job, load_engine(job.run.path / ENGINE, 1, device=job.profile), "latency"):
        return
    x = job.loaded.workload.example_input(*job.input_size).numpy()
    result = time_engines(job.run.path, x, threads=request.threads, seconds=request.measure_seconds, seed=request.seed)
    write_text(job.run.path / LATENCY, result.model_dump_json() + "\n")
    job.run.finish_stage("latency", [LATENCY], {})


def _left_out(job: Job, engine: Engine, stage: str) -> bool:
    """Finish a stage that takes running the engine, with the reason, where it cannot run here."""
    reason = engine.why_not_here()
    if reason is None:
        return False
    note(f"{stage}: not measured, {reason}")
    job.run.finish_stage(stage, [], {NOT_RUN: reason})
    return True


def why_not_run(job: Job) -> str | None:
    """Why the engine was not run in this job; None where it was."""
    reason = job.run.values("quality").get(NOT_RUN)
    return None if reason is None else str(reason)


def time_engines(
    run: Path,
    x: NDArray[np.float32],
    *,
    threads: int,
    seconds: float,
    seed: int,
    energy: bool = False,
    cuda_graph: bool = False,
) -> ComparisonResult:
    """The comparison of a run's engine with its baseline on one input, [1, C, H, W]; at least `seconds` each.

    `cuda_graph`: both are replayed as CUDA graphs.
    """
    session = protocol(threads=threads, seconds=seconds, seed=seed, energy=energy, cuda_graph=cuda_graph)
    folders = {ENGINE_NAME: run / ENGINE, BASELINE_NAME: run / FLOAT}
    candidates = [Candidate(name, folder, cuda_graph=session.cuda_graph) for name, folder in folders.items()]
    probe = run / "work" / "latency-input.npy"
    probe.parent.mkdir(parents=True, exist_ok=True)
    np.save(probe, x)
    return measure(
        candidates,
        input_file=probe,
        threads=session.threads,
        min_seconds=session.min_seconds,
        min_samples=session.min_samples,
        max_seconds=session.max_seconds,
        seed=session.seed,
        percentiles=session.percentiles,
        warm_up=session.warm_up,
        gate=session.gate,
        block_seconds=session.block_seconds,
        timeout_seconds=session.timeout_seconds,
        energy_seconds=session.energy_seconds,
    )


def protocol(*, threads: int, seconds: float, seed: int, energy: bool = False, cuda_graph: bool = False) -> Protocol:
    """How engines are timed, here and elsewhere: at least `seconds` each.

    A short session also waits less for a quiet machine and takes shorter turns; from 5 s on the harness's own hold.
    """
    percentiles = (50.0, 90.0)
    return Protocol(
        threads=threads,
        seed=seed,
        min_seconds=seconds,
        min_samples=max(map(needed_samples, percentiles)),
        max_seconds=12 * seconds + 60,
        percentiles=percentiles,
        gate=LoadGate.for_session(seconds),
        block_seconds=min(0.25, seconds / 20),
        energy_seconds=ENERGY_SECONDS if energy else None,
        cuda_graph=cuda_graph,
    )


def load_quality(run: Path) -> QualityRecord:
    """Read `quality.json`."""
    return QualityRecord.model_validate_json((run / QUALITY).read_bytes())


def load_latency(run: Path) -> ComparisonResult:
    """Read `latency.json`."""
    return ComparisonResult.model_validate_json((run / LATENCY).read_bytes())
