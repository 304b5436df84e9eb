"""What a search over 50,000 candidates costs: `python -m benchmarks.eqnet_search --data-root DIR`.

The space is that of ResNet-20, the predictor a fresh one on a synthetic quality: its size is what decides the time. A
genetic search under a BitOps budget, predictions included, against random search of the same number of candidates. For
a front, NSGA-II by pymoo against that by Optuna from the same starts, by hypervolume. Times are of this process; the
search is repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import command
from benchmarks.common import markdown_table, write_results
from benchmarks.eqnet_fronts import fronts, timed
from compress.graph import capture
from compress.layer_table import LayerTable
from search.eqnet.accounting import Accounting
from search.eqnet.cqap import CqapSettings, train_cqap
from search.eqnet.encoder import Bits, bits_of, forms_of
from search.eqnet.forms import FORMS
from search.eqnet.genes import GeneMap
from search.eqnet.genetic import GeneticSettings, evolve, random_search
from search.eqnet.repair import Limit
from search.eqnet.samples import Measured, draw
from search.eqnet.space import Configuration, ElasticSpace
from search.eqnet.supernet import trainable_graph
from workloads.loading import load_checkpoint

FORM = FORMS[6]


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
    (net, told), training = timed(lambda: train_cqap(space, samples, CqapSettings(epochs=given.epochs)))
    genes, bitops = GeneMap(space), accounting.bitops()
    budget = float(bitops(bits_of([space.uniform(4, FORM)]))[0])
    limits = [Limit.of(bitops, budget)]
    settings = GeneticSettings(population=given.population, generations=given.generations, seed=given.seed)

    def predict(bits: Bits) -> NDArray[np.float64]:
        return net.quality(bits, FORM)

    repeats = [timed(lambda: evolve(genes, predict, limits, settings)) for _ in range(given.repeats)]
    found, times = repeats[0][0], [seconds for _, seconds in repeats]
    chance, by_chance = timed(lambda: random_search(genes, predict, limits, found.candidates, seed=given.seed))
    both = list(fronts(genes, predict, bitops, settings, pymoo=given.pymoo, optuna=given.optuna))
    rows = [
        ["genetic search", str(found.candidates), *(f"{statistics.median(t[i] for t in times):.2f}" for i in (0, 1)),
         f"{found.fitness[0]:.4f}"],
        ["random search", str(chance.candidates), *(f"{s:.2f}" for s in by_chance), f"{chance.fitness[0]:.4f}"],
        ["training the predictor", str(given.samples), *(f"{s:.2f}" for s in training), f"Kendall {told.kendall:.2f}"],
        *(one.cells() for one in both),
    ]  # fmt: skip
    table = markdown_table(("what", "candidates or samples", "CPU s", "wall s", "best predicted"), rows)
    text = f"## ResNet-20, BitOps of uniform 4 bits, {given.threads} thread(s), synthetic quality\n\n{table}"
    results = {
        "genetic_seconds": [{"cpu": c, "wall": w} for c, w in times], "random_seconds": list(by_chance),
        "fronts": [dataclasses.asdict(one) for one in both], "training_seconds": list(training),
        "candidates": found.candidates, "predicted": found.predicted, "best": float(found.fitness[0]),
        "best_random": float(chance.fitness[0]), "agreement": told.model_dump(),
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
    made.add_argument("--pymoo", type=int, nargs="+", default=[500, 5000, 20000], help="candidates of its NSGA-II")
    made.add_argument("--optuna", type=int, nargs="+", default=[500, 5000], help="candidates of its NSGA-II")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--seed", type=int, default=0)
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
