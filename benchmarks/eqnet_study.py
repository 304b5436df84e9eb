"""What one elastic supernet is worth: `python -m benchmarks.eqnet_study --data-root DIR`.

ResNet-20 on CIFAR-10: subnets of every width and all eight forms read out of one supernet, beside a training of its
own for each width (recovery training, the best that this repository has for one plan) of as many steps, and beside a
network trained at 8 bits that is only rounded to the other widths. Ablations: the supernet without the regulariser of
weight distributions, and without guidance; and one that learns from the float network and not from labels. Beside it,
ours: the supernet that `bitwright search eqnet` trains. Accuracies on the test set, simulated in torch.

Each training is a file of its own: stop the study at any moment, and continue it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from benchmarks import command
from benchmarks.common import markdown_table, spread, write_results
from benchmarks.recovery_classification import trained
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from compress.graph import capture
from compress.training.processes import Processes, processes
from search.eqnet.forms import FORMS
from search.eqnet.norms import training_inputs
from search.eqnet.settings import EqnetSettings, Guide
from search.eqnet.space import ALL_BITS, ElasticSpace
from search.eqnet.subnets import Subnets
from search.eqnet.supernet import Supernet, trainable_graph
from search.eqnet.trainer import Trainer
from search.layer_sensitivity import evaluator
from workloads.classification.task import Classification
from workloads.classification.training_data import ShuffledImages
from workloads.loading import load_checkpoint
from workloads.workload import Predict

WIDTHS = (8, 6, 4, 3, 2)
COMPARED = "channel-sym-asym"
"""The form that trainings of one width have: weights per channel and symmetric, inputs with an offset."""
STATE = "supernet.safetensors"
_NORM_IMAGES = 2048
_FIRST_SCALES = 1024


class Arm(StrEnum):
    """What is trained."""

    SUPERNET = "supernet"
    NO_WDR = "supernet without WDR"
    NO_GUIDANCE = "supernet without guidance"
    TAUGHT = "supernet taught by float"
    OURS = "supernet by our recipe"
    EIGHT = "trained at 8 bits, rounded"


ABLATIONS = (Arm.NO_WDR, Arm.NO_GUIDANCE, Arm.TAUGHT)
"""Trained with the first seed only."""
IN_ALL_FORMS = (Arm.SUPERNET, Arm.OURS)


class Read(BaseModel):
    """Top-1 in percent of subnets: `quality[bits][form]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: Arm
    seed: int
    steps: int
    seconds: float
    quality: dict[int, dict[str, float]]


def settings_of(arm: Arm, given: argparse.Namespace, seed: int) -> EqnetSettings:
    """The training of an arm; all have the same steps and batches."""
    base = EqnetSettings(steps=given.steps, batch=given.batch, weight_rate=given.rate, seed=seed, log_every=20)
    if arm is Arm.NO_WDR:
        return dataclasses.replace(base, kurt_rate=0.0, skew_rate=0.0)
    if arm is Arm.NO_GUIDANCE:
        return dataclasses.replace(base, share=0.0)
    if arm is Arm.TAUGHT:
        return dataclasses.replace(base, share=1.0, guide=Guide.FLOAT_FIRST)
    if arm is Arm.OURS:
        ours = EqnetSettings.for_classes()
        return dataclasses.replace(ours, steps=given.steps, batch=given.batch, seed=seed, log_every=20)
    return base


@dataclass(frozen=True)
class Grown:
    """A trained supernet with what it was trained on; `teacher`: the float network, `seconds` of the training."""

    supernet: Supernet
    teacher: Predict
    samples: ShuffledImages
    workload: Classification
    steps: int
    seconds: float


def folder_of(study: Path, arm: Arm, steps: int, seed: int) -> Path:
    """Where an arm of a study is trained."""
    return study / command.WORK / f"{arm.value.replace(' ', '-')}-{steps}-steps-seed-{seed}"


def grow(arm: Arm, given: argparse.Namespace, seed: int, group: Processes, path: Path) -> Grown:
    """Train the supernet of an arm, or go on with the one in `path`."""
    data = given.data_root / "classification" / "cifar10"
    loaded = load_checkpoint(given.data_root / "classification" / "checkpoints" / f"{given.classifier}.pth")
    workload, side = loaded.workload, loaded.workload.min_input_side
    if not isinstance(workload, Classification):
        raise UsageError(f"{given.classifier} is no classifier; this study is about classes")
    graph = trainable_graph(capture(loaded.module, workload.example_input(side, side)))
    inputs = workload.calibration(data, _FIRST_SCALES, side, seed)
    supernet = Supernet(graph, ElasticSpace.of(graph, (8,) if arm is Arm.EIGHT else ALL_BITS))
    supernet.fit(inputs)
    samples, settings = workload.training(data, side, seed), settings_of(arm, given, seed)
    note(f"{arm.value}, seed {seed}: training")
    position = Trainer(supernet, samples, settings, group, images=False, path=path).run()
    if arm is Arm.EIGHT:
        trained_graph = supernet.cpu().float_graph()
        supernet = Supernet(trained_graph, ElasticSpace.of(trained_graph))
        supernet.fit(inputs)
    return Grown(supernet, loaded.module, samples, workload, position.step, position.seconds)


def read(arm: Arm, given: argparse.Namespace, seed: int, group: Processes) -> Read:
    """The subnets of an arm, read out of its supernet; or the result that is on the disk."""
    folder = folder_of(given.out, arm, given.steps, seed)
    path = folder / "result.json"
    if path.is_file():
        return Read.model_validate_json(path.read_bytes())
    grown = grow(arm, given, seed, group, folder / STATE)
    test = grown.workload.samples(given.data_root / "classification" / "cifar10")
    subnets = Subnets(grown.supernet, training_inputs(grown.samples, _NORM_IMAGES), evaluator(grown.workload, test))
    forms = [form for form in FORMS if arm in IN_ALL_FORMS or form.name == COMPARED]
    space = grown.supernet.space
    quality = {bits: {f.name: subnets.quality(space.uniform(bits, f)) for f in forms} for bits in WIDTHS}
    found = Read(arm=arm, seed=seed, steps=grown.steps, seconds=grown.seconds, quality=quality)
    write_text(path, found.model_dump_json(indent=1) + "\n")
    return found


def tables(reads: Sequence[Read], dedicated: dict[int, list[float]], float_top1: float) -> str:
    """Widths against arms in one form, and widths against forms of supernets."""
    arms = [arm for arm in Arm if any(read.arm is arm for read in reads)]
    rows = []
    for bits in WIDTHS:
        cells = [spread([r.quality[bits][COMPARED] for r in reads if r.arm is arm], 2) for arm in arms]
        rows.append([f"{bits} bits", spread(dedicated[bits], 2), *cells])
    first = markdown_table(["", "trained at this width", *arms], rows)
    parts = [f"Top-1 in percent; float: {float_top1:.2f}. Form of the first table: {COMPARED}.", first]
    for arm in IN_ALL_FORMS:
        rows = []
        whole = [r for r in reads if r.arm is arm]
        for bits in WIDTHS:
            rows.append([f"{bits} bits", *(spread([r.quality[bits][form.name] for r in whole], 2) for form in FORMS)])
        parts.append(markdown_table([arm, *(form.name for form in FORMS)], rows))
    return "\n\n".join(parts)


def benchmark(given: argparse.Namespace) -> str:
    """Make what is missing, seed by seed; write the results and return the text of the tables."""
    if given.threads:
        torch.set_num_threads(given.threads)
    reads: list[Read] = []
    dedicated: dict[int, list[float]] = {bits: [] for bits in WIDTHS}
    float_top1, began = 0.0, time.monotonic()
    with processes() as group:
        for seed in range(given.seeds):
            with_ablations = seed == 0 and given.ablations
            reads += [read(arm, given, seed, group) for arm in Arm if with_ablations or arm not in ABLATIONS]
            for bits in WIDTHS:
                one = trained(given, bits, seed)
                dedicated[bits].append(one.trained_top1)
                float_top1 = one.float_top1
            text = (
                f"## {given.classifier}, {given.steps} steps of {given.batch} images, {seed + 1} seed(s)\n\n"
                + tables(reads, dedicated, float_top1)
            )
            results = {
                "float_top1": float_top1, "dedicated_top1": dedicated,
                "reads": [r.model_dump(mode="json") for r in reads],
            }  # fmt: skip
            # After each seed, so that a study that is stopped has whole ones.
            write_results(given.out, "eqnet_study", results, text, command.hidden(given))
    note(f"study: {(time.monotonic() - began) / 60:.0f} minutes in this call")
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = command.study_parser(
        "Compare an elastic supernet with trainings of one width.", "benchmarks/results/eqnet_study",
        "folder that holds classification/",
    )  # fmt: skip
    made.add_argument("--classifier", default="resnet20_cifar10", help="stem of a checkpoint in classification/")
    made.add_argument("--batch", type=int, default=64, help="images of a step, as in the trainings of one width")
    made.add_argument("--rate", type=float, default=1e-3, help="Adam's rate of the supernet's weights")
    made.add_argument("--no-ablations", dest="ablations", action="store_false", help="leave the ablations out")
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
