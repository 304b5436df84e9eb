"""N:M of a real network, quality and size: `python -m benchmarks.nm_networks --data-root DIR`.

For each pattern `bitwright compress --sparsity`: masks at once, training in float under them, then in 8 bits. Told of
each is the pruned network in float (in torch), the engine in 8 bits, both on Set14 and BSD100, and what the file takes.
A pattern that is finished is a folder: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks import command
from benchmarks.arms import Arm, ArmRecord, Network, claim, finished, slug
from benchmarks.common import markdown_table, write_results
from benchmarks.main_job_arms import BASELINE, Settings, bitwright_arm, names_of, onnxruntime_float
from bitwright.foundation.files import write_json
from bitwright.report import Report
from bitwright.runs.job import SPARSE
from bitwright.runs.reopen import reopened
from compress.graph import load_graph

SETS = ("Set14", "BSD100")
LIMIT = 0.15
"""Allowed drop, dB; the table tells how many layers stay in 8 bits."""


def pruned_in_float(network: Network, arm: str) -> dict[str, float]:
    """PSNR-Y of the pruned network ahead of its 8 bits; kept beside the run."""
    folder = network.work / slug(arm)
    path = folder / "float.json"
    if not path.is_file():
        workload = network.loaded.workload
        with reopened(folder / "run") as job:
            graph = load_graph(job.graph, job.run.path / SPARSE)
            found = {
                name: workload.evaluate(graph, workload.samples(network.test / name, network.images)).mean
                for name in SETS
            }
        write_json(path, found)
    value: dict[str, float] = json.loads(path.read_bytes())
    return value


def row_of(network: Network, record: ArmRecord, reference: ArmRecord, pattern: str) -> dict[str, Any]:
    """All figures of a pattern."""
    run = network.work / slug(record.arm) / "run"
    report = Report.from_json((run / "report.json").read_bytes())
    sparsity = report.sparsity
    assert sparsity is not None
    float_scores = {name: score.mean for name, score in reference.quality.items()}
    in_float = pruned_in_float(network, record.arm)
    stages = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    sparse = next(stage["values"] for stage in stages if stage["stage"] == "sparse")
    return {
        "pattern": pattern,
        "layers": sparsity.layers,
        "zeros": sparsity.zeros,
        "drop_at_once": sparse.get("untrained_drop", sparse["drop"]),
        "drop_float": {name: float_scores[name] - in_float[name] for name in SETS},
        "drop_engine": {name: float_scores[name] - record.quality[name].mean for name in SETS},
        "int8_layers": record.int8_layers,
        "bytes": {
            "raw": sparsity.raw_bytes, "deflated": sparsity.deflated_bytes,
            "packed": sparsity.packed_bytes, "unpacked": sparsity.unpacked_bytes,
        },
        "stages_s": record.details["stages_s"],
    }  # fmt: skip


def table_of(rows: list[dict[str, Any]]) -> str:
    """A row for each pattern."""
    cells = []
    for row in rows:
        layers = ", ".join(f"{count} x {pattern}" for pattern, count in sorted(row["layers"].items()))
        drops = [f"{row[kind][name]:.3f}" for kind in ("drop_float", "drop_engine") for name in SETS]
        minutes = (row["stages_s"]["sparse"] + row["stages_s"]["recovered"]) / 60
        sizes = [f"{row['bytes'][kind] / 1000:.0f}" for kind in ("raw", "deflated", "packed")]
        cells.append([
            row["pattern"], layers, f"{100 * row['zeros']:.0f}", f"{row['drop_at_once']:.3f}", *drops,
            str(row["int8_layers"]), f"{minutes:.0f}", *sizes,
        ])  # fmt: skip
    titles = [
        "asked for", "layers", "zeros %", "at once, held out dB", *(f"float {n} dB" for n in SETS),
        *(f"8 bits {n} dB" for n in SETS), "int8 layers", "minutes", "ONNX kB", "deflated", "packed",
    ]  # fmt: skip
    return markdown_table(titles, cells)


def pruned(network: Network, given: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """The table of a network, and its rows."""
    settings = Settings.of(given, network)
    claim(network, {**settings.decisive(), "training": f"{given.training_steps} steps, {given.share:g} in float"})
    reference = finished(network, Arm(BASELINE, partial(onnxruntime_float, network, settings)), SETS)
    rows = []
    for pattern in given.patterns:
        options = (f"sparsity={pattern}", f"recover={given.training_steps}", f"sparsity_share={given.share:g}")
        trained = replace(settings, options=(*settings.options, *options))
        record = finished(network, Arm(f"bitwright {pattern}", partial(bitwright_arm, network, trained, LIMIT)), SETS)
        rows.append(row_of(network, record, reference, pattern))
    head = (
        f"## {network.name}: drop against float, {given.training_steps} steps of training, "
        f"{given.share:.0%} of them in float"
    )
    return f"{head}\n\n{table_of(rows)}", rows


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, write its results and return the text of its tables."""
    parts, figures = [], {}
    for name in names_of(given.networks):
        text, figures[name] = pruned(command.network_of(given, name), given)
        parts.append(text)
    text = "\n\n".join(parts)
    write_results(given.out, "nm_networks", {"networks": figures}, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    parser = command.parser("Measure N:M on real networks: quality and size.", "benchmarks/results/nm_networks")
    parser.add_argument("--networks", default="rfdn_x4", help="stems of super-resolution checkpoints")
    parser.add_argument("--patterns", nargs="+", default=["2:4", "1:4", "1:8"], metavar="N:M", help="patterns")
    parser.add_argument("--training-steps", type=int, default=4500, help="training steps of each pattern")
    parser.add_argument("--share", type=float, default=0.5, help="share of them that is in float, ahead of 8 bits")
    parser.add_argument("--set", action="append", default=["sparsity_rate=0.0002"], metavar="NAME=VALUE",
                        help="a setting of bitwright")  # fmt: skip
    given = parser.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
