"""What pruning at once costs: `python -m benchmarks.nm_one_shot --data-root DIR`.

Networks pruned to N:M without any training, by magnitude, by magnitude times input norm, and layer by layer by the
damage to the layer's output: by its masks alone, and with the weights that stay solved for anew. Scored in float, on
Set14 or CIFAR-10's test images. Channels are permuted first, the same way for all.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import fx

from benchmarks import command
from benchmarks.common import markdown_table, write_results
from benchmarks.main_job_arms import names_of
from bitwright.foundation.progress import note
from compress.graph import capture, clone, set_tensor, tensor
from compress.layer_table import LayerTable
from compress.nm_pattern import Sparsity
from compress.preparation import prepare
from compress.sparsity import decide
from compress.sparsity.one_shot import ScoreKind, pruned, sparse_weights
from compress.sparsity.permutation import permute
from compress.sparsity.second_order import prune
from workloads.classification.task import Classification
from workloads.loading import load_checkpoint

KINDS = ("magnitude", "times input norm", "damage, masks alone", "damage, solved anew")


def places(given: argparse.Namespace, name: str) -> tuple[Path, Path, Path]:
    """Checkpoint, pictures to calibrate on and pictures to score on."""
    root: Path = given.data_root
    checkpoint = root / "checkpoints" / f"{name}.pth"
    if checkpoint.is_file():
        return checkpoint, root / "sr" / "train", root / "sr" / "test" / "Set14"
    folder = root / "classification"
    return folder / "checkpoints" / f"{name}.pth", folder / "cifar10", folder / "cifar10"


def measured(given: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """A row for each pattern."""
    checkpoint, train, test = places(given, name)
    loaded = load_checkpoint(checkpoint)
    workload, side = loaded.workload, max(64, loaded.workload.min_input_side)
    if isinstance(workload, Classification):
        side = workload.min_input_side
    example = workload.example_input(side, side)
    graph = prepare(capture(loaded.module, example))
    table = LayerTable.from_graph(graph, example)
    inputs = workload.calibration(train, given.crops, side, given.seed)
    samples = workload.samples(test, given.images)
    dense = workload.evaluate(graph, samples).mean
    rows = []
    for text in given.patterns:
        patterns = {
            layer: found.pattern for layer, found in decide(graph, table, Sparsity.parse(text), fill=True).items()
        }
        wanted = sparse_weights(graph, table, patterns)
        moved = permute(graph, wanted, example).graph
        began = time.monotonic()
        solved = prune(moved, wanted, inputs)
        seconds = time.monotonic() - began
        networks = (
            pruned(moved, table, patterns, inputs, ScoreKind.MAGNITUDE),
            pruned(moved, table, patterns, inputs, ScoreKind.INPUT_NORM),
            masked(moved, solved, set(wanted)),
            solved,
        )
        drops = [dense - workload.evaluate(network, samples).mean for network in networks]
        note(f"{name} {text}: {', '.join(f'{kind} {drop:.3f}' for kind, drop in zip(KINDS, drops, strict=True))}")
        rows.append({
            "network": name, "pattern": text, "unit": workload.unit, "dense": dense, "seconds": seconds,
            "pruned_layers": len(wanted), "drops": dict(zip(KINDS, drops, strict=True)),
        })  # fmt: skip
    return rows


def masked(graph: fx.GraphModule, solved: fx.GraphModule, names: set[str]) -> fx.GraphModule:
    """`graph` without the weights that are zero in `solved`."""
    result = clone(graph)
    for name in names:
        set_tensor(result, name, tensor(graph, name).detach() * (tensor(solved, name) != 0))
    return result


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, write its results and return its table."""
    torch.set_num_threads(given.threads)
    with torch.no_grad():
        rows = [row for name in names_of(given.networks) for row in measured(given, name)]
    cells = [
        [f"{row['network']}, {row['pattern']}", f"{row['dense']:.2f} {row['unit']}",
         *(f"{row['drops'][kind]:.3f}" for kind in KINDS), f"{row['seconds']:.0f}"]
        for row in rows
    ]  # fmt: skip
    table = markdown_table(["network", "dense", *(f"drop, {kind}" for kind in KINDS), "seconds of the last"], cells)
    text = f"## Pruned at once, not trained, {given.crops} calibration inputs, {given.threads} thread(s)\n\n{table}"
    write_results(given.out, "nm_one_shot", {"rows": rows}, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    parser = command.parser("Measure what pruning at once costs.", "benchmarks/results/nm_one_shot")
    parser.set_defaults(crops=64)
    parser.add_argument("--networks", default="rfdn_x4,espcn_x2,resnet20_cifar10", help="stems of checkpoints")
    parser.add_argument("--patterns", nargs="+", default=["2:4", "1:4"], metavar="N:M", help="patterns")
    given = parser.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
