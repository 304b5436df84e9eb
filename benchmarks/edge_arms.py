"""The engines of `edge_runtimes` that another environment makes and runs: those of ExecuTorch and ncnn.

A network goes there as an exported program and as a traced one, for each input size that it is timed or scored at.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.arms import RECORD, ArmRecord, Network, Score, slug
from benchmarks.edge_session import EdgeEngine
from benchmarks.main_job_arms import Settings
from bitwright.foundation.errors import BitwrightError, UsageError
from bitwright.foundation.files import write_bytes, write_text
from bitwright.foundation.progress import note
from deploy.footprint import Needed, installed

SET = "Set5"
MADE = "made.json"
_BATCH = 16
"""Most crops that go through an exported network at once."""
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class EdgeRuntime:
    """A runtime of another environment: its packages there, and the engines that `script` makes, by folder.

    `beside`: packages that it runs with and does not require by name.
    """

    name: str
    packages: tuple[str, ...]
    beside: tuple[str, ...]
    script: str
    suffix: str
    engines: dict[str, str]

    @property
    def wanted(self) -> tuple[str, ...]:
        """All packages that must be there."""
        return (*self.packages, *self.beside)


RUNTIMES = (
    EdgeRuntime("executorch", ("executorch",), ("torch",), "edge_executorch.py", ".pte", {"executorch int8": "."}),
    EdgeRuntime("ncnn", ("ncnn", "pnnx"), (), "edge_ncnn.py", ".param", {"ncnn fp32": "fp32", "ncnn int8": "int8"}),
)


@dataclass(frozen=True)
class OtherEnvironment:
    """Another environment by its Python, and the packages of its runtimes, each with what it requires."""

    python: Path
    packages: dict[str, tuple[Needed, ...]]

    @staticmethod
    def of(python: Path | None) -> OtherEnvironment | None:
        """What is installed there; None for no environment, UsageError for one that does not answer or fit."""
        if python is None:
            return None
        words = [str(python), "-c", "import json, sys; print(json.dumps([p for p in sys.path if p]))"]
        try:
            told = subprocess.run(words, capture_output=True, check=True, text=True, env={}).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise UsageError(f"--edge-python {python} does not run: {error}") from error
        places = json.loads(told)
        found = {name: tuple(installed(name, places)) for runtime in RUNTIMES for name in runtime.wanted}
        there, here = (found["torch"][0].version if found["torch"] else None), torch.__version__
        if there is not None and there.partition("+")[0] != here.partition("+")[0]:
            raise UsageError(
                f"--edge-python {python} has torch {there}, and exported networks go between equal versions only; "
                f"install torch {here.partition('+')[0]} there"
            )
        return OtherEnvironment(python, found)

    def versions(self) -> dict[str, str]:
        """Of the runtimes."""
        return {name: needed[0].version for name, needed in self.packages.items() if needed}

    def has(self, runtime: EdgeRuntime) -> bool:
        """Whether a runtime and what makes its engines are there."""
        return all(self.packages[name] for name in runtime.wanted)

    def running(self, name: str) -> tuple[Needed, ...]:
        """What the runtime called `name` runs with, itself first."""
        beside = next(runtime.beside for runtime in RUNTIMES if runtime.name == name)
        return tuple({one.name: one for part in (name, *beside) for one in self.packages[part]}.values())


def write_sources(network: Network, settings: Settings, folder: Path) -> None:
    """Write what the scripts convert, once: the network in each size, [1, C, H, W], and the calibration crops."""
    if (folder / "crops.npy").is_file():
        return
    workload = network.loaded.workload
    crops = workload.calibration(network.train, settings.crops, settings.crop_side, settings.seed)
    samples = workload.samples(network.test / SET, network.images)
    inputs = [torch.zeros(settings.input_shape), crops[:1], *(sample.input for sample in samples)]
    folder.mkdir(parents=True, exist_ok=True)
    module = network.loaded.module.eval()
    batch = math.gcd(len(crops), _BATCH)
    with torch.no_grad():
        for x in {x.shape: x for x in inputs}.values():
            size = _size(x)
            torch.export.save(torch.export.export(module, (x,)), folder / f"{size}.pt2")
            torch.jit.trace(module, x).save(folder / f"{size}.pt")  # type: ignore[no-untyped-call]
        torch.export.save(torch.export.export(module, (crops[:batch],)), folder / "calibration.pt2")
    np.save(folder / "crops.npy", crops.numpy())


def made(
    network: Network, settings: Settings, runtime: EdgeRuntime, environment: OtherEnvironment
) -> list[tuple[ArmRecord, EdgeEngine]]:
    """The arms of a runtime: read if they are there, else converted, scored on Set5, and written."""
    versions = [environment.packages[name][0].version for name in runtime.packages]
    root = network.work / slug(" ".join([runtime.name, *versions]))
    last = root / list(runtime.engines.values())[-1]
    started, resumed = time.monotonic(), root.exists()
    if not (last / MADE).is_file():
        note(f"{network.name}, {runtime.name}: converting")
        write_sources(network, settings, network.work / "sources")
        convert(environment.python, runtime, network.work / "sources", root)
    seconds = time.monotonic() - started
    size = "x".join(map(str, settings.input_shape[2:]))
    arms = []
    for name, place in runtime.engines.items():
        folder = root / place
        engine = EdgeEngine(name, runtime.name, folder / f"{size}{runtime.suffix}", environment.python)
        if not (folder / RECORD).is_file():
            counts = json.loads((folder / MADE).read_bytes())
            record = ArmRecord(
                arm=name, engine=str(engine.file.relative_to(network.work)),
                loader=f"benchmarks.edge_worker:{runtime.name}", preparation_s=seconds,
                int8_layers=counts.pop("int8_layers"), layers=counts.pop("layers"),
                quality={SET: score(network, engine)}, details={**counts, "resumed": resumed},
            )  # fmt: skip
            write_text(folder / RECORD, record.model_dump_json(indent=1) + "\n")
        arms.append((ArmRecord.model_validate_json((folder / RECORD).read_bytes()), engine))
    return arms


def convert(python: Path, runtime: EdgeRuntime, sources: Path, out: Path) -> None:
    """Run a runtime's script; BitwrightError with the last line that it printed where it fails."""
    out.mkdir(parents=True, exist_ok=True)
    words = [str(python), "-P", str(_FOLDER / runtime.script), str(sources), str(out)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    write_bytes(out / "output.log", done.stdout)
    if done.returncode:
        line = done.stdout.decode(errors="replace").strip().splitlines()[-1:]
        raise BitwrightError(f"{runtime.name}: the conversion failed: {' '.join(line)}; see {out / 'output.log'}")


def score(network: Network, engine: EdgeEngine) -> Score:
    """The workload's metric on Set5, each picture by the engine of its size."""
    with tempfile.TemporaryDirectory(prefix="bitwright-edge-") as temporary:
        folder = Path(temporary)
        with engine.worker(folder, 1) as worker:

            def predict(x: Tensor) -> Tensor:
                np.save(folder / "input.npy", x.numpy())
                file = engine.file.with_name(_size(x) + engine.file.suffix)
                engine.load(worker, file, folder / "input.npy", 1)
                worker.ask("output", file=str(folder / "output.npy"))
                return torch.from_numpy(np.load(folder / "output.npy"))

            workload = network.loaded.workload
            result = workload.evaluate(predict, workload.samples(network.test / SET, network.images))
    return Score(mean=result.mean, per_image=result.per_sample)


def _size(x: Tensor) -> str:
    return f"{x.shape[2]}x{x.shape[3]}"
