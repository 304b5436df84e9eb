"""Runtimes for phones and boards side by side on this processor: `python -m benchmarks.edge_runtimes --data-root DIR`.

bitwright's own LiteRT engine, and the engines that ExecuTorch and ncnn make of the same float network on the same
calibration crops, each by its own quantiser; all beside ONNX Runtime float. ExecuTorch, ncnn and pnnx live in an
environment of their own, whose Python is given as `--edge-python`; without it they are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.arms import Arm, ArmRecord, Network, claim, finished
from benchmarks.common import NOTHING, markdown_table, speedup_text, write_results
from benchmarks.edge_arms import RUNTIMES, SET, OtherEnvironment, made
from benchmarks.edge_session import EdgeEngine, EdgeSession, measure
from benchmarks.main_job_arms import BASELINE, Settings, bitwright_arm, names_of, onnxruntime_float
from benchmarks.session import LATENCY, Timing
from bitwright.foundation.files import sha256_file, write_text
from bitwright.foundation.progress import note
from deploy.engine import Runtime
from deploy.engines import read_spec
from deploy.engines.runtime_packages import package_of
from deploy.footprint import Needed, installed
from deploy.latency import Clock, Speedup

LITERT = "litert int8"
LIMIT = 5.0
"""Allowed drop, dB: no layer is left in float for its quality."""
TITLES = (
    "engine", "int8 layers", "Set5 dB", "median ms", "speed-up", "paired [95 %]", "CPU ms", "by CPU time", "model kB",
    "runtime MB", "with all MB",
)  # fmt: skip


def left_out(environment: OtherEnvironment | None) -> str:
    """What is not compared for want of its packages, in a sentence; nothing where all is there."""
    if environment is None:
        return "ExecuTorch and ncnn are left out: no --edge-python was given."
    lacking = {p: r.name for r in RUNTIMES for p in r.wanted if not environment.packages[p]}
    names = " and ".join(dict.fromkeys(lacking.values()))
    return "" if not lacking else f"Left out: {names}; {', '.join(lacking)} not installed beside --edge-python."


def own_arms(network: Network, settings: Settings) -> list[tuple[ArmRecord, EdgeEngine]]:
    """ONNX Runtime float and `bitwright compress` for LiteRT, by nearest rounding, all layers on integers."""
    arms = [
        Arm(BASELINE, partial(onnxruntime_float, network, settings)),
        Arm(LITERT, partial(bitwright_arm, network, settings, LIMIT)),
    ]
    records = [finished(network, arm, (SET,)) for arm in arms]
    return [(record, EdgeEngine(record.arm, "bitwright", network.work / record.engine)) for record in records]


def model_file(engine: EdgeEngine) -> list[Path]:
    """The files of a model for one input size."""
    if engine.python is None:
        return [engine.file / read_spec(engine.file).artefact]
    weights = engine.file.with_suffix(".bin")
    return [engine.file, *([weights] if weights.is_file() else [])]


def timed(network: Network, engines: Sequence[EdgeEngine], timing: Timing) -> EdgeSession:
    """Time the engines side by side; an earlier session is read if it timed exactly these in this way."""
    path = network.work / LATENCY
    files = {engine.name: sha256_file(model_file(engine)[-1]) for engine in engines}
    shape = timing.input_shape(network)
    if path.is_file() and not timing.again:
        before = EdgeSession.model_validate_json(path.read_bytes())
        if before.is_of(files, timing, shape):
            note(f"{network.name}: timed before")
            return before
    source = network.work / "input.npy"
    np.save(source, network.loaded.workload.example_input(timing.side, timing.side).numpy())
    session = measure(engines, files, source, timing)
    write_text(path, session.model_dump_json() + "\n")
    return session


def packages_of(engine: EdgeEngine, environment: OtherEnvironment | None) -> tuple[Needed, ...]:
    """The packages that run an engine, the runtime first."""
    if environment is None or engine.python is None:
        return tuple(installed(package_of(read_spec(engine.file).runtime)))
    return environment.running(engine.runtime)


def compared(
    network: Network, given: argparse.Namespace, environment: OtherEnvironment | None
) -> tuple[str, dict[str, Any]]:
    """Table and figures of one network."""
    settings = Settings.of(given, network, "reconstruct=false", f"runtime={Runtime.LITERT}")
    claim(network, settings.decisive())
    arms = own_arms(network, settings)
    if environment is not None:
        for runtime in filter(environment.has, RUNTIMES):
            arms += made(network, settings, runtime, environment)
    session = timed(network, [engine for _, engine in arms], command.timing_of(given))
    rows = []
    for record, engine in arms:
        packages = packages_of(engine, environment)
        rows.append({
            "engine": engine.name, "int8_layers": record.int8_layers, "layers": record.layers,
            "set5_db": record.quality[SET].mean, "median_ms": session.times(engine.name).median_ms,
            "cpu_median_ms": session.times(engine.name).cpu_median_ms,
            "ratio": session.ratio(engine.name, BASELINE),
            "cpu_ratio": session.ratio(engine.name, BASELINE, Clock.CPU),
            "paired": session.speedup(engine.name, BASELINE).model_dump(mode="json"),
            "model_bytes": sum(file.stat().st_size for file in model_file(engine)),
            "packages": {package.name: package.model_dump(mode="json") for package in packages},
            "runtime_bytes": packages[0].bytes, "all_bytes": sum(package.bytes or 0 for package in packages),
        })  # fmt: skip
    figures = {"rows": rows, "arms": [record.model_dump(mode="json") for record, _ in arms],
               "latency": session.model_dump(mode="json")}  # fmt: skip
    return f"## {network.name}\n\n{table_of(rows)}\n\n{circumstances(session)}", figures


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """The table of one network."""
    cells = [
        [
            r["engine"], f"{r['int8_layers']}/{r['layers']}", f"{r['set5_db']:.3f}", f"{r['median_ms']:.1f}",
            f"{r['ratio']:.2f}", speedup_text(Speedup.model_validate(r["paired"])), f"{r['cpu_median_ms']:.1f}",
            f"{r['cpu_ratio']:.2f}", f"{r['model_bytes'] / 1e3:.0f}",
            NOTHING if r["runtime_bytes"] is None else f"{r['runtime_bytes'] / 1e6:.0f}", f"{r['all_bytes'] / 1e6:.0f}",
        ]
        for r in rows
    ]  # fmt: skip
    return markdown_table(TITLES, cells)


def circumstances(session: EdgeSession) -> str:
    """Where and how a session was measured, in one line, with a warning where the machine was busy."""
    rough = f" **Rough: {'; '.join(noise.value for noise in session.noise)}.**" if session.noise else ""
    return (
        f"{session.environment.cpu_model}, {session.threads} thread(s), input "
        f"{'x'.join(map(str, session.input_shape))}, interleaved, others kept {session.foreign_cores_during:.1f} cores "
        f"busy, environment {session.environment.fingerprint}.{rough}"
    )


def benchmark(given: argparse.Namespace) -> str:
    """Measure all networks, write the results and return the text of the tables."""
    environment = OtherEnvironment.of(given.edge_python)
    missing = left_out(environment)
    if missing:
        note(missing)
    names = command.hidden(given) | ({} if given.edge_python is None else {given.edge_python: "EDGE_PYTHON"})
    sections, figures = [missing] if missing else [], {}
    for name in names_of(given.networks):
        text, figures[name] = compared(command.network_of(given, name), given, environment)
        sections.append(text)
        results = {"other_versions": {} if environment is None else environment.versions(), "networks": figures}
        write_results(given.out, "edge_runtimes", results, "\n\n".join(sections), names)
    return "\n\n".join(sections)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = command.parser("Compare runtimes for phones and boards.", "benchmarks/results/edge_runtimes")
    made.add_argument("--networks", default="rfdn_x4,espcn_x2,fsrcnn_x4", help="stems of checkpoints")
    made.add_argument("--edge-python", type=Path, help="Python of an environment with executorch, ncnn and pnnx")
    made.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of bitwright")
    return made


def main() -> int:
    """Parse the command line, run and print."""
    given = parser().parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
