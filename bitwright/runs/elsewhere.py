"""Timing a finished run on another machine: as a bundle that is carried by hand, or over a connection."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from bitwright.foundation.errors import OutputError, UsageError
from bitwright.foundation.files import write_bytes
from bitwright.foundation.progress import note
from bitwright.runs.built import ENGINE, ONNX, PLAN
from bitwright.runs.folder import REQUEST
from bitwright.runs.job import Job
from bitwright.runs.measure import MeasureSummary, keep, require_comparable
from bitwright.runs.proof import BASELINE_NAME, ENGINE_NAME, protocol
from bitwright.runs.reopen import compressed_network, reopened
from bitwright.runs.stages import FLOAT
from compress.plan import Plan
from deploy.footprint import gpu_needed
from deploy.latency import Candidate
from deploy.remote import FarBundle, Manifest, Results, Transport, audit_elsewhere, is_bundle, write_bundle
from deploy.remote.bundle import Simulate
from deploy.torch_threads import torch_threads

BUNDLES = "bundles"
"""Folder of a run with the manifests of its bundles, by their hash: only what was measured with one is taken back."""


class BundleSummary(BaseModel):
    """A bundle that was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    file: str
    bytes: int
    bundle: str
    requirements: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """What it is and what to do with it."""
        path = Path(self.file)
        name, results = shlex.quote(path.name), shlex.quote(f"{path.stem}-results")
        return (
            f"{self.file}: {self.bytes} bytes, bundle {self.bundle[:16]}",
            f"needs there: Python 3.11 or later, {', '.join(self.requirements)}",
            f"copy it to the machine, run `python3 {name}` there, and bring back the folder that it names",
            f"then: bitwright import {results}",
        )


def bundle(
    run: Path,
    out: Path,
    *,
    threads: int,
    input_size: tuple[int, int],
    seconds: float,
    energy: bool = False,
    cuda_graph: bool = False,
) -> BundleSummary:
    """Write a run's engine and its baseline with an input of `input_size` (height, width) and a runner to `out`.

    `cuda_graph`: there, both are replayed as CUDA graphs; UsageError for engines that are not for a GPU. OutputError
    for a folder or a file that is no bundle in that place.
    """
    if out.is_dir():
        raise OutputError(f"{out} is a folder; give the file to write as --out")
    if out.exists() and not is_bundle(out):
        raise OutputError(f"{out} is a file that is no bundle; choose another --out")
    candidates = [Candidate(ENGINE_NAME, run / ENGINE), Candidate(BASELINE_NAME, run / FLOAT)]
    with reopened(run) as job:
        job.runtime.require_timed()
        require_comparable(job)
        x = job.loaded.workload.example_input(*job.sized(input_size)).numpy()
        session = protocol(
            threads=threads, seconds=seconds, seed=job.request.seed, energy=energy, cuda_graph=cuda_graph
        )
        manifest = write_bundle(out, candidates, x, session, run=run, device=job.profile, networks=_networks(job))
        write_bytes(run / BUNDLES / f"{manifest.digest}.json", manifest.to_bytes())
    releases = {f"{arm.spec.runtime} {arm.spec.runtime_version.partition('-')[0]}" for arm in manifest.arms}
    gpus = {gpu for arm in manifest.arms for gpu in gpu_needed(arm.spec)}
    return BundleSummary(
        run=str(run),
        file=str(out),
        bytes=out.stat().st_size,
        bundle=manifest.digest,
        requirements=("numpy", *sorted(releases), *gpus),
    )


def _networks(job: Job) -> dict[str, Simulate]:
    """The networks of a run's engines in torch, on one thread, so that they give the same each time."""

    def baseline(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return _in_torch(job.original, x)

    def engine(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return _in_torch(compressed_network(job).simulate(), x)

    return {ENGINE_NAME: engine, BASELINE_NAME: baseline}


def _in_torch(network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch_threads(1), torch.no_grad():
        made: NDArray[np.float32] = network(torch.from_numpy(x)).numpy()
    return made


def take_back(source: Path, run: Path | None = None, table: Path | None = None) -> MeasureSummary:
    """Take the samples in `source`, a file or the folder that a runner wrote, into the run they were made for.

    `run`: where that run lies now, if not where it lay. `table`: a latency table to add the times to.
    UsageError for samples that are incomplete, not as their runner wrote them, or of a bundle that the run does not
    know.
    """
    results = Results.read(source)
    home = run or Path(results.head.run)
    if not (home / REQUEST).is_file():
        raise UsageError(f"{source} was measured for the run {home}, which is not there; say where it is with --run")
    return _kept(home, results, _manifest(home, results), table)


def _kept(run: Path, results: Results, manifest: Manifest, table: Path | None) -> MeasureSummary:
    """Take samples, and the audit of what was executed there, into a run."""
    timed, executed = results.comparison(manifest), results.executed(manifest)
    there = None
    if ENGINE_NAME in executed:
        spec = next(arm.spec for arm in manifest.arms if arm.name == ENGINE_NAME)
        there = audit_elsewhere(executed[ENGINE_NAME], run / ENGINE, spec, run / ONNX, Plan.load(run / PLAN))
    return keep(run, timed, table, there)


def _manifest(run: Path, results: Results) -> Manifest:
    path = run / BUNDLES / f"{results.head.bundle}.json"
    if not path.is_file():
        raise UsageError(
            f"{results.path} was measured with the bundle {results.head.bundle[:16]}, which was not made from {run}"
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(f"{path} is damaged; make the bundle again and measure anew") from error


def measure_on(
    run: Path,
    transport: Transport,
    *,
    threads: int,
    input_size: tuple[int, int],
    seconds: float,
    python: str = "python3",
    folder: str | None = None,
    table: Path | None = None,
    energy: bool = False,
    cuda_graph: bool = False,
) -> MeasureSummary:
    """Time the run's engines on the machine behind `transport`; what an earlier call left there is gone on with.

    `python` and `folder`: the interpreter and the working folder there. `table`: a latency table to add to. See
    `bundle` and `FarBundle.measure` for the rest.
    """
    with tempfile.TemporaryDirectory(prefix="bitwright-bundle-") as temporary:
        file = Path(temporary) / "bundle.pyz"
        made = bundle(
            run,
            file,
            threads=threads,
            input_size=input_size,
            seconds=seconds,
            energy=energy,
            cuda_graph=cuda_graph,
        )
        manifest = Manifest.model_validate_json((run / BUNDLES / f"{made.bundle}.json").read_bytes())
        far = FarBundle(transport, file, manifest, python=python, folder=folder)
        samples = Path(temporary) / "samples.jsonl"
        far.measure(samples)
        results = Results.read(samples)
        try:
            summary = _kept(run, results, manifest, table)
        except OutputError:
            # What could not be written here is still there, for the next call.
            raise
        except UsageError:
            # What is refused would be refused again: the next call measures anew.
            _remove(far)
            raise
        _remove(far)
    return summary


def _remove(far: FarBundle) -> None:
    note(f"removing the bundle from {far.transport.name}")
    far.remove()
