"""What mixed widths are worth in one supernet: `python -m benchmarks.eqnet_mixed --data-root DIR`.

The supernet by our recipe of `benchmarks.eqnet_study` (trained first where it is missing). Predictors learn the
quality that `bitwright search eqnet` searches by, the SQNR of logits on held-out training images, from subnets that
were evaluated truly, and are told against others; beside it, how well that quality and top-1 on the same images order
subnets by their top-1 on the test set. Then, at the BitOps of each uniform width: the plan of a genetic search over
50,000 predictions, its best evaluated truly; the best of as many random members by the same predictor, as many
evaluated; and the best of random members that were all evaluated truly, as many as the predictor and the search have
cost together. Plans are chosen on held-out training images, and told on the test set.

Every evaluation is kept: stop the benchmark at any moment, and continue it.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import command
from benchmarks.common import write_results
from benchmarks.eqnet_mixed_tables import EVALUATED, GENETIC, PREDICTED, UNIFORM, Chosen, Learnt, Ordered, tables
from benchmarks.eqnet_study import COMPARED, STATE, Arm, folder_of, grow
from bitwright.foundation.progress import note, track
from compress.layer_table import LayerTable
from compress.training.processes import processes
from search.eqnet.accounting import Accounting, LayerCosts
from search.eqnet.cqap import Cqap, train_cqap
from search.eqnet.encoder import Bits, bits_of, configuration_of, forms_of
from search.eqnet.forms import FORMS
from search.eqnet.gaussian_process import GaussianProcess
from search.eqnet.genes import GeneMap
from search.eqnet.genetic import GeneticSettings, evolve
from search.eqnet.noise_regression import NoiseRegression
from search.eqnet.norms import training_inputs
from search.eqnet.predictor import Agreement, Predictor, learning_curve
from search.eqnet.predictor_choice import train
from search.eqnet.quality import Measure
from search.eqnet.repair import Limit
from search.eqnet.samples import Measured, Scored, collect
from search.eqnet.space import Configuration, ElasticSpace
from search.eqnet.subnets import Subnets
from search.eqnet.trainer import values_digest
from search.eqnet.verification import verify

FORM = next(form for form in FORMS if form.name == COMPARED)
NEAR = 0.95
"""Random members have at least this share of the BitOps that they may have."""
STEEPEST = 1.5
CHUNK = 20_000
SQNR, TOP1, PREDICTED_SQNR = "SQNR, held-out images", "top-1, held-out images", "SQNR, predicted"


def _cqap(space: ElasticSpace, samples: Sequence[Measured]) -> Predictor:
    return train_cqap(space, samples)[0]


_KINDS: dict[str, Callable[[ElasticSpace, Sequence[Measured]], Predictor]] = {
    Cqap.KIND: _cqap, NoiseRegression.KIND: NoiseRegression.fit, GaussianProcess.KIND: GaussianProcess.fit,
}  # fmt: skip


class Kept:
    """True qualities by configuration, in a file of JSON lines; a last line that was cut off is left out."""

    def __init__(self, evaluate: Callable[[Configuration], Scored], path: Path) -> None:
        self.evaluate, self.path = evaluate, path
        self.known: dict[str, Scored] = {}
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            path.write_text(whole, encoding="utf-8")
            self.known = {key: Scored(value, extra) for key, value, extra in map(json.loads, whole.splitlines())}
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, configuration: Configuration) -> Scored:
        """Known quality, or the true one, which is then kept."""
        key = configuration.key
        if key not in self.known:
            self.known[key] = self.evaluate(configuration)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, *self.known[key]]) + "\n")
        return self.known[key]


def random_members(genes: GeneMap, cost: LayerCosts, most: float, count: int, seed: int) -> Bits:
    """Distinct members with between NEAR and all of `most`, [count, layers, 2].

    Each has a slope of its own, so that narrow and wide networks are drawn alike: p(place) ~ exp(slope * place).
    """
    draw = np.random.default_rng([seed, 3])
    found: dict[bytes, NDArray[np.int64]] = {}
    places = np.arange(genes.values.shape[1])
    unusable = places >= genes.sizes[:, None]
    while len(found) < count:
        slopes = draw.uniform(-STEEPEST, STEEPEST, (CHUNK, 1, 1))
        chances = slopes * places + draw.gumbel(size=(CHUNK, genes.count, len(places)))
        members = np.where(unusable, -np.inf, chances).argmax(2)
        costs = cost(genes.bits(members))
        for member in members[(costs <= most) & (costs >= NEAR * most)]:
            found.setdefault(member.tobytes(), member)
    return genes.bits(np.stack(list(found.values())[:count]))


class Mixed:
    """One supernet, its evaluations and its predictor."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        data = given.data_root / "classification" / "cifar10"
        state = folder_of(given.study, Arm.OURS, given.steps, 0) / STATE
        with processes() as group:
            grown = grow(Arm.OURS, given, 0, group, state)
        workload = grown.workload
        side = workload.min_input_side
        self.space = grown.supernet.space
        table = LayerTable.from_graph(grown.supernet.template, workload.example_input(side, side))
        self.accounting = Accounting.of(table, self.space)
        self.owner = f"{values_digest(state)[:12]}-norms-of-{given.norm_images}"
        folder = given.out / command.WORK / self.owner
        seen = training_inputs(grown.samples, given.norm_images)
        self.metric = workload.metric
        both = workload.held_out(data), workload.samples(data)
        chooses, tests = (Measure(workload, samples, grown.teacher) for samples in both)
        subnets = Subnets(grown.supernet, seen, lambda predict: chooses(predict).value)

        def kept(measure: Measure, name: str) -> Kept:
            def scored(configuration: Configuration) -> Scored:
                with subnets.network(configuration) as predict:
                    return measure(predict)

            return Kept(scored, folder / name)

        self.held_out, self.test = kept(chooses, "held_out.jsonl"), kept(tests, "test.jsonl")
        self.genes, self.bitops = GeneMap(self.space), self.accounting.bitops()

    def top1(self, scored: Scored) -> float:
        """The task's metric, in percent."""
        return scored.extra[self.metric]

    def predictor(self) -> tuple[Predictor, list[Learnt], list[Ordered], float]:
        """Trained on all samples but those that agreements are told on; how each kind learns, and the seconds of all.

        With what orders those samples by their top-1 on the test set.
        """
        given = self.given
        samples = collect(self.space, self.accounting, self.held_out, given.samples, seed=0, owner=self.owner)
        kept = len(samples) - given.told
        sizes = sorted({kept // 4, kept // 2, kept})
        began = time.perf_counter()
        net = train(self.space, samples[:kept]).predictor
        seconds = time.perf_counter() - began
        learnt = []
        for kind, fit in _KINDS.items():
            curve = learning_curve(functools.partial(fit, self.space), samples[:kept], samples[kept:], sizes)
            learnt += [Learnt(kind=kind, samples=size, told=one) for size, one in curve.items()]
        rest = samples[kept:]
        true = np.array([self.top1(self.test(s.configuration)) for s in track(rest, "on other images")])
        configurations = [s.configuration for s in rest]
        qualities = {
            SQNR: np.array([s.value for s in rest]),
            PREDICTED_SQNR: net.quality(bits_of(configurations), forms_of(configurations)),
            TOP1: np.array([s.extra[self.metric] for s in rest]),
        }
        ordered = [Ordered(quality=name, told=Agreement.of(found, true)) for name, found in qualities.items()]
        return net, learnt, ordered, seconds

    def chosen(self, arm: str, bits: int, seed: int, net: Predictor) -> Chosen:
        """What an arm finds within the BitOps of uniform `bits`."""
        given = self.given
        uniform = self.space.uniform(bits, FORM)
        most = float(self.bitops(bits_of([uniform]))[0])
        evaluations = given.verified
        if arm == UNIFORM:
            candidates, evaluations = [(uniform, 0.0)], 1
        elif arm == GENETIC:
            settings = GeneticSettings(kept=given.verified, seed=seed)
            found = evolve(self.genes, lambda b: net.quality(b, FORM), [Limit.of(self.bitops, most)], settings)
            candidates = [(configuration_of(b, FORM), float(f)) for b, f in zip(found.bits, found.fitness, strict=True)]
        elif arm == PREDICTED:
            usual = GeneticSettings()
            members = random_members(self.genes, self.bitops, most, usual.population * usual.generations, seed)
            values = net.quality(members, FORM)
            best = np.argsort(-values, kind="stable")[: given.verified]
            candidates = [(configuration_of(members[i], FORM), float(values[i])) for i in best]
        else:
            evaluations += given.samples // len(given.widths)
            members = random_members(self.genes, self.bitops, most, evaluations, seed)
            candidates = [(configuration_of(member, FORM), 0.0) for member in members]
        one = verify(candidates, lambda configuration: self.held_out(configuration).value, evaluations)[0]
        widths = bits_of([one.configuration])
        return Chosen(
            arm=arm, bits=bits, seed=seed, evaluations=evaluations, share=float(self.bitops(widths)[0] / most),
            sqnr=one.true, held_out=self.top1(self.held_out(one.configuration)),
            test=self.top1(self.test(one.configuration)),
            widths=tuple((int(w), int(a)) for w, a in widths[0]),
        )  # fmt: skip


def benchmark(given: argparse.Namespace) -> str:
    """Make what is missing; write the results after each seed and return the text of the tables."""
    torch.set_num_threads(given.threads)
    mixed = Mixed(given)
    net, learnt, ordered, seconds = mixed.predictor()
    note(f"predictors trained in {seconds:.1f} s; the best one is the {net.KIND}")
    found = [mixed.chosen(UNIFORM, bits, 0, net) for bits in given.widths]
    for seed in range(given.seeds):
        pairs = [(arm, bits) for arm in (GENETIC, PREDICTED, EVALUATED) for bits in given.widths]
        found += [mixed.chosen(arm, bits, seed, net) for arm, bits in track(pairs, f"seed {seed}: arms and budgets")]
        text = f"## {given.classifier}, one supernet of {given.steps} steps, {seed + 1} seed(s) of the searches\n\n"
        text += tables(found, learnt, ordered)
        results = {
            "agreement": [one.model_dump() for one in learnt], "ordered": [one.model_dump() for one in ordered],
            "predictor_seconds": seconds, "predictor": net.KIND,
            "chosen": [one.model_dump() for one in found],
        }  # fmt: skip
        write_results(given.out, "eqnet_mixed", results, text, {**command.hidden(given), given.study: "STUDY"})
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = command.study_parser(
        "Compare mixed widths of one supernet with uniform ones and with random search.",
        "benchmarks/results/eqnet_mixed", "folder that holds classification/",
    )  # fmt: skip
    made.add_argument("--study", type=Path, default=Path("benchmarks/results/eqnet_study"), help="of the supernet")
    made.add_argument("--classifier", default="resnet20_cifar10", help="stem of a checkpoint in classification/")
    made.add_argument("--batch", type=int, default=64, help="images of a step of the supernet")
    made.add_argument("--rate", type=float, default=1e-3, help="Adam's rate of the supernet's weights")
    made.add_argument("--norm-images", type=int, default=512, help="images that norms are calibrated on")
    made.add_argument("--samples", type=int, default=500, help="subnets that the predictor is trained and told on")
    made.add_argument("--told", type=int, default=100, help="how many of them it is told on")
    made.add_argument("--verified", type=int, default=20, help="members of a search that are evaluated truly")
    made.add_argument("--widths", type=int, nargs="+", default=[3, 4, 5], help="uniform widths whose BitOps are kept")
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
