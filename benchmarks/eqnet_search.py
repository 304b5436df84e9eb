"""What a search over 50,000 candidates costs: `python -m benchmarks.eqnet_search --data-root DIR`.

The space is that of ResNet-20, the predictor a fresh one on a synthetic quality: its size is what decides the time. A
genetic search under a BitOps budget, predictions included, against random search of the same number of candidates, and
against one candidate of NSGA-II by Optuna. Times are CPU times of this process; the search is repeated.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import command
from benchmarks.common import markdown_table, write_results
from compress.graph import capture
from compress.layer_table import LayerTable
from search.eqnet.accounting import Accounting
from search.eqnet.cqap import Cqap, CqapSettings, train_cqap
from search.eqnet.encoder import Bits, bits_of, forms_of
from search.eqnet.forms import FORMS
from search.eqnet.genes import GeneMap
from search.eqnet.genetic import FoundMembers, GeneticSettings, evolve, random_search
from search.eqnet.pareto import front
from search.eqnet.predictor import Agreement
from search.eqnet.repair import Limit
from search.eqnet.samples import Measured, draw
from search.eqnet.space import Configuration, ElasticSpace
from search.eqnet.supernet import trainable_graph
from workloads.loading import load_checkpoint

FORM = FORMS[6]


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of `work`."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, write its results and return the text of its table."""
    torch.set_num_threads(given.threads)
    loaded = load_checkpoint(given.data_root / "classification" / "checkpoints" / "resnet20_cifar10.pth")
    example = loaded.workload.example_input(loaded.workload.min_input_side, loaded.workload.min_input_side)
    graph = trainable_graph(capture(loaded.module, example))
    space = ElasticSpace.of(graph)
    accounting = Accounting.of(LayerTable.from_graph(graph, example), space)
    hurt = np.random.default_rng(given.seed).exponential(1.0, len(space.layers))

    def quality(configuration: Configuration) -> float:
        bits = bits_of([configuration])[0]
        loss = hurt @ (2.0 ** -bits[:, 0].astype(float) + 2.0 ** -bits[:, 1].astype(float))
        return float(92 - loss - 0.3 * (forms_of([configuration])[0] & 1))

    drawn = [draw(space, accounting, given.seed, index) for index in range(given.samples)]
    samples = [Measured(one, quality(one)) for one in drawn]
    trained: list[tuple[Cqap, Agreement]] = []
    training = _seconds(lambda: trained.append(train_cqap(space, samples, CqapSettings(epochs=given.epochs))))
    net, told = trained[0]
    genes, bitops = GeneMap(space), accounting.bitops()
    budget = float(bitops(bits_of([space.uniform(4, FORM)]))[0])
    limits = [Limit.of(bitops, budget)]
    settings = GeneticSettings(population=given.population, generations=given.generations, seed=given.seed)
    found: list[FoundMembers] = []

    def predict(bits: Bits) -> NDArray[np.float64]:
        return net.quality(bits, FORM)

    times = [_seconds(lambda: found.append(evolve(genes, predict, limits, settings))) for _ in range(given.repeats)]
    chance: list[FoundMembers] = []
    by_chance = _seconds(
        lambda: chance.append(random_search(genes, predict, limits, found[0].candidates, seed=given.seed))
    )
    nsga = _seconds(lambda: front(genes, predict, bitops, trials=given.trials, seed=given.seed))
    rows = [
        ["genetic search", str(found[0].candidates), *(f"{statistics.median(t[i] for t in times):.2f}" for i in (0, 1)),
         f"{found[0].fitness[0]:.4f}"],
        ["random search", str(chance[0].candidates), *(f"{s:.2f}" for s in by_chance), f"{chance[0].fitness[0]:.4f}"],
        ["NSGA-II (Optuna)", str(given.trials), *(f"{s:.2f}" for s in nsga), ""],
        ["training the predictor", str(given.samples), *(f"{s:.2f}" for s in training), f"Kendall {told.kendall}"],
    ]  # fmt: skip
    table = markdown_table(("what", "candidates or samples", "CPU s", "wall s", "best predicted"), rows)
    text = f"## ResNet-20, BitOps of uniform 4 bits, {given.threads} thread(s), synthetic quality\n\n{table}"
    results = {
        "genetic_seconds": [{"cpu": c, "wall": w} for c, w in times], "random_seconds": list(by_chance),
        "nsga_seconds": list(nsga), "nsga_trials": given.trials, "training_seconds": list(training),
        "candidates": found[0].candidates, "predicted": found[0].predicted, "best": float(found[0].fitness[0]),
        "best_random": float(chance[0].fitness[0]), "agreement": told.model_dump(),
    }  # fmt: skip
    write_results(given.out, "eqnet_search", results, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = argparse.ArgumentParser(description="Time the search for mixed precision.")
    made.add_argument("--data-root", type=Path, required=True, help="folder that holds classification/checkpoints")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/eqnet_search"), help="where results go")
    made.add_argument("--population", type=int, default=100)
    made.add_argument("--generations", type=int, default=500)
    made.add_argument("--samples", type=int, default=2000, help="synthetic samples of the predictor")
    made.add_argument("--epochs", type=int, default=100)
    made.add_argument("--trials", type=int, default=200, help="trials of NSGA-II")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--seed", type=int, default=0)
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
