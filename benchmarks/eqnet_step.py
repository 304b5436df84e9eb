"""What a step of a supernet costs over a float step: `python -m benchmarks.eqnet_step --data-root DIR`.

ResNet-20 on images of CIFAR-10: a plain float step, one elastic pass at 8 bits, three passes without and with the
regulariser of weights. All arms run interleaved in one process on the same batch, optimisers included; times are CPU
times, and each ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import command
from benchmarks.common import markdown_table, write_results
from compress.graph import capture
from compress.training.processes import Processes
from search.eqnet.forms import FORMS
from search.eqnet.settings import EqnetSettings
from search.eqnet.space import ElasticSpace
from search.eqnet.supernet import Supernet, trainable_graph
from search.eqnet.trainer import Trainer
from workloads.loading import load_checkpoint

FLOAT, ONE, THREE, WHOLE = "float step", "one elastic pass", "three passes", "three passes and regulariser"
RATE = 1e-6


def arms(given: argparse.Namespace, data: Path) -> dict[str, Callable[[], None]]:
    """The steps that are timed, by name."""
    loaded = load_checkpoint(given.data_root / "classification" / "checkpoints" / "resnet20_cifar10.pth")
    workload, side = loaded.workload, loaded.workload.min_input_side
    example = workload.example_input(side, side)
    graph = trainable_graph(capture(loaded.module, example))
    space = ElasticSpace.of(graph)
    samples = workload.training(data, side, given.seed)
    pairs = [samples[i] for i in range(given.batch)]
    images, labels = (torch.stack(part) for part in zip(*pairs, strict=True))
    settings = EqnetSettings(
        steps=10**6, batch=given.batch, weight_rate=RATE, scale_rate=RATE, offset_rate=RATE, seed=given.seed
    )  # fmt: skip
    alone = Processes(0, 1, torch.device("cpu"))
    plain = loaded.module.train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=RATE)

    def float_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(workload.loss(plain(images), labels))
        optimizer.step()

    def supernet_step(kurt_rate: float, skew_rate: float) -> Callable[[], None]:
        supernet = Supernet(graph, space)
        supernet.fit(images)
        changed = dataclasses.replace(settings, kurt_rate=kurt_rate, skew_rate=skew_rate)
        trainer = Trainer(supernet, samples, changed, alone, images=False)
        supernet.train()
        state = {"step": 0}

        def step() -> None:
            trainer.step(images, labels, state["step"])
            state["step"] += 1

        return step

    return {
        FLOAT: float_step,
        ONE: _one_pass(Supernet(graph, space), images, labels, workload.loss),
        THREE: supernet_step(0.0, 0.0),
        WHOLE: supernet_step(settings.kurt_rate, settings.skew_rate),
    }


def _one_pass(
    supernet: Supernet, images: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[], None]:
    supernet.fit(images)
    supernet.train()
    supernet.choose(supernet.space.uniform(8, FORMS[6]))
    optimizer = torch.optim.Adam(supernet.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(supernet(images), labels))
        optimizer.step()

    return step


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, write its results and return the text of its table."""
    torch.set_num_threads(given.threads)
    made = arms(given, given.data_root / "classification" / "cifar10")
    for step in made.values():
        step()
    rounds: list[dict[str, float]] = []
    names = list(made)
    for turn in range(given.rounds):
        at = turn % len(names)
        rounds.append({})
        for name in names[at:] + names[:at]:
            began = time.process_time()
            made[name]()
            rounds[-1][name] = time.process_time() - began
    rows, ratios = [], {}
    for name in names:
        found = sorted(r[name] / r[FLOAT] for r in rounds)
        ratios[name] = statistics.median(found)
        seconds = statistics.median(r[name] for r in rounds)
        rows.append([name, f"{1e3 * seconds:.0f}", f"{ratios[name]:.2f} [{found[0]:.2f}, {found[-1]:.2f}]"])
    table = markdown_table(("step", "median CPU ms", "over float [range]"), rows)
    text = f"## ResNet-20, batch {given.batch}, {given.threads} thread(s), {given.rounds} rounds\n\n{table}"
    results = {
        "settings": {"batch": given.batch, "threads": given.threads}, "rounds": rounds, "ratios": ratios,
    }  # fmt: skip
    write_results(given.out, "eqnet_step", results, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = argparse.ArgumentParser(description="Compare the cost of a supernet step with a float step.")
    made.add_argument("--data-root", type=Path, required=True, help="folder that holds classification/")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/eqnet_step"), help="where results go")
    made.add_argument("--batch", type=int, default=128)
    made.add_argument("--rounds", type=int, default=11)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--seed", type=int, default=0)
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
