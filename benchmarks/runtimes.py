"""One network in 8 bits on every runtime that is here: `python -m benchmarks.runtimes --data-root DIR`.

Each arm is `bitwright compress` for one runtime, by nearest rounding, with all layers that have integer kernels on
integers. Quality is that of the engine on Set5, beside that of the same integers simulated in torch; latency comes from
one interleaved session with ONNX Runtime float.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.arms import Arm, ArmRecord, Network, Prepared, claim, finished
from benchmarks.common import markdown_table, speedup_text, write_results
from benchmarks.main_job_arms import BASELINE, Settings, bitwright_arm, names_of, onnxruntime_float
from benchmarks.session import timed
from benchmarks.tables import circumstances
from bitwright.runs.reopen import compressed_network, reopened
from deploy.footprint import footprint

SET = "Set5"
LIMIT = 5.0
"""Allowed drop, dB: no layer is left in float for its quality."""
AIM = 0.02
"""Largest gap between engine and torch that is aimed at, dB."""
TITLES = ("runtime", "int8 layers", "torch dB", "engine dB", "gap dB", "median ms", "speed-up [95 %]", "on the device")


def int8_arm(network: Network, settings: Settings, folder: Path) -> Prepared:
    """A run of `bitwright compress`, with the quality of its integers in torch among the details."""
    prepared = bitwright_arm(network, settings, LIMIT, folder)
    with reopened(folder / "run") as job:
        workload = network.loaded.workload
        samples = workload.samples(network.test / SET, network.images)
        torch_db = workload.evaluate(compressed_network(job).simulate(), samples).mean
    return replace(prepared, details={**prepared.details, "torch_db": torch_db})


def compared(network: Network, given: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Table and figures of one network."""
    timing = command.timing_of(given)
    settings = Settings.of(given, network, "reconstruct=false")
    claim(network, settings.decisive())
    arms = [Arm(BASELINE, partial(onnxruntime_float, network, settings))]
    for runtime in names_of(given.runtimes):
        chosen = replace(settings, options=(*settings.options, f"runtime={runtime}"))
        arms.append(Arm(f"{runtime} int8", partial(int8_arm, network, chosen)))
    records = [finished(network, arm, (SET,)) for arm in arms]
    times = timed(network, records, timing)
    rows = [row_of(network, record, times.measurement(record.arm).to_summary().median_ms) for record in records]
    cells = [
        [
            row["arm"], f"{row['int8_layers']}/{row['layers']}",
            *(_decibels(row[name]) for name in ("torch_db", "engine_db", "gap_db")),
            f"{row['median_ms']:.1f}", speedup_text(times.speedup(row["arm"], BASELINE)),
            f"{row['bytes_on_device'] / 1e6:.0f} MB",
        ]
        for row in rows
    ]  # fmt: skip
    figures = {"rows": rows, "arms": [r.model_dump(mode="json") for r in records],
               "latency": times.model_dump(mode="json")}  # fmt: skip
    return f"## {network.name}\n\n{markdown_table(TITLES, cells)}\n\n{circumstances(times)}", figures


def row_of(network: Network, record: ArmRecord, median_ms: float) -> dict[str, Any]:
    """The figures of an arm; torch and gap are null for the float baseline."""
    engine_db = record.quality[SET].mean
    torch_db = record.details.get("torch_db")
    gap = None if not isinstance(torch_db, float) else engine_db - torch_db
    return {
        "arm": record.arm, "int8_layers": record.int8_layers, "layers": record.layers, "torch_db": torch_db,
        "engine_db": engine_db, "gap_db": gap, "within_aim": None if gap is None else abs(gap) <= AIM,
        "median_ms": median_ms, "bytes_on_device": footprint(network.work / record.engine).bytes,
    }  # fmt: skip


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def benchmark(given: argparse.Namespace) -> str:
    """Measure all networks, write the results and return the text of the tables."""
    sections, figures = [], {}
    for name in names_of(given.networks):
        text, figures[name] = compared(command.network_of(given, name), given)
        sections.append(text)
        write_results(given.out, "runtimes", {"networks": figures}, "\n\n".join(sections), command.hidden(given))
    return "\n\n".join(sections)


def main() -> int:
    """Parse the command line, run and print."""
    parser = command.parser("Compare the runtimes that are installed.", "benchmarks/results/runtimes")
    parser.add_argument("--networks", default="rfdn_x4,imdn_x4,pan_x4,espcn_x2,fsrcnn_x4", help="stems of checkpoints")
    parser.add_argument(
        "--runtimes", default="onnxruntime,openvino,litert,torch", help="runtimes of the device profile"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of bitwright")
    given = parser.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
