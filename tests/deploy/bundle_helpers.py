"""A bundle of real engines that is measured in a second, and its runner started the way a user starts it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.engine import Runtime
from deploy.engines import build_engine
from deploy.latency import Candidate, LoadGate, WarmUp
from deploy.remote import Manifest, Protocol, write_bundle
from tests.deploy.far_machine import clean_environment

SHAPE = (1, 3, 24, 32)
SEED = 7


@dataclass(frozen=True)
class Bundle:
    file: Path
    manifest: Manifest


def protocol(
    seconds: float = 0.05, min_samples: int = 29, energy_seconds: float | None = None, cuda_graph: bool = False
) -> Protocol:
    return Protocol(
        threads=1,
        seed=SEED,
        min_seconds=seconds,
        min_samples=min_samples,
        max_seconds=60.0 + seconds,
        percentiles=(50.0, 90.0),
        block_seconds=0.01,
        energy_seconds=energy_seconds,
        cuda_graph=cuda_graph,
        warm_up=WarmUp(min_runs=4, min_seconds=0.0, max_seconds=0.2),
        gate=LoadGate(wait_seconds=0.0, window_seconds=0.05),
    )


def make_bundle(
    folder: Path,
    quantized: Path,
    floats: Path,
    runtime: Runtime = Runtime.ONNXRUNTIME,
    x: np.ndarray | None = None,
    **settings: float,
) -> Bundle:
    """Engines of the quantised file for `runtime`, and of the float one for ONNX Runtime, on `x` or on noise."""
    if x is None:
        x = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    candidates = [Candidate("engine", folder / "engine"), Candidate("float", folder / "float")]
    for candidate, source, engine in (
        (candidates[0], quantized, runtime),
        (candidates[1], floats, Runtime.ONNXRUNTIME),
    ):
        if not candidate.folder.exists():
            shape = x.shape if engine is Runtime.OPENVINO else None
            build_engine(source, candidate.folder, runtime=engine, profile="any", input_shape=shape)
    file = folder / "bundle.pyz"
    return Bundle(file, write_bundle(file, candidates, x, protocol(**settings), run=folder))  # type: ignore[arg-type]


def start(
    python: Path | str, file: Path, out: Path, seconds: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a bundle to its end, within `seconds`; `environment` is added to that of the machine."""
    return subprocess.run(
        [str(python), str(file), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=clean_environment() | environment,
        cwd="/",
    )
