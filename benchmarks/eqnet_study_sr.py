"""What an elastic supernet is worth in super-resolution: `python -m benchmarks.eqnet_study_sr --data-root DIR`.

EQ-Net-style (adapted): a network whose output is an image, with 8, 6 and 4 bits from one supernet, beside a training of
its own for each width (recovery training, the best that this repository has for one plan) of as many steps on as many
patches, and beside plain rounding. The float network teaches all subnets. Ablations: pictures in its place or beside
it, the paper's guidance by wider subnets, inner tensors, the regulariser of weight distributions, losses added up as
they are, and one rate for all weights. PSNR-Y on Set14 and BSD100, simulated
in torch: no runtime here executes all of these widths.

Each training is a file of its own: stop the study at any moment, and continue it.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from benchmarks import command
from benchmarks.arms import slug
from benchmarks.common import markdown_table, spread, write_results
from benchmarks.uniform_rounding import rounded
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from compress.graph import capture
from compress.preparation import prepare
from compress.recovery.recover import recover
from compress.recovery.settings import RecoverySettings
from compress.training.processes import Processes, processes
from search.eqnet.export import Target
from search.eqnet.forms import FORMS
from search.eqnet.settings import EqnetSettings, Guide
from search.eqnet.space import ElasticSpace
from search.eqnet.subnets import Subnets
from search.eqnet.supernet import Supernet, trainable_graph
from search.eqnet.trainer import Trainer
from search.layer_sensitivity import evaluator
from workloads.loading import load_checkpoint
from workloads.workload import LoadedModel, Predict

WIDTHS = (8, 6, 4)
SETS = ("Set14", "BSD100")
FORM = next(form for form in FORMS if form.name == "channel-sym-asym")
"""Weights per channel and symmetric, inputs with an offset: the form of trainings of one width."""
CROPS, CROP_SIDE = 64, 64
FEATURE_WEIGHT = 0.01


class Arm(StrEnum):
    """What is trained; the first one is what the ablations change one thing of."""

    SUPERNET = "supernet"
    PICTURES = "no guidance, pictures"
    HALF = "guidance 0.5"
    WIDER = "guided by wider subnets"
    FEATURES = "guidance with features"
    WDR = "with WDR"
    SUM = "losses without logarithm"
    ABSOLUTE = "one rate for all weights"
    DEDICATED = "trained at this width"
    ROUNDED = "rounded"
    DAMAGE = "rounded by damage"
    """As the subnets are rounded: by the damage to each layer's output."""


CHANGES: dict[Arm, dict[str, Any]] = {
    Arm.SUPERNET: {},
    Arm.PICTURES: {"share": 0.0},
    Arm.HALF: {"share": 0.5},
    Arm.WIDER: {"guide": Guide.WIDER, "share": 0.5},
    Arm.FEATURES: {"feature_weight": FEATURE_WEIGHT},
    Arm.WDR: {"kurt_rate": 0.015, "skew_rate": 1.0},
    Arm.SUM: {"logarithm": False},
    Arm.ABSOLUTE: {"relative": False, "weight_rate": 1e-4},
}
"""Settings by which supernets differ."""
ABLATIONS = tuple(arm for arm in CHANGES if arm is not Arm.SUPERNET)
"""Trained with the first seed only."""


class Read(BaseModel):
    """PSNR-Y in dB: `quality[bits][test set]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: Arm
    seed: int
    seconds: float
    quality: dict[int, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Study:
    """A network, its pictures and the training that all arms share."""

    loaded: LoadedModel
    train: Path
    tests: dict[str, Path]
    images: int | None
    steps: int
    work: Path

    def scores(self, predict: Predict) -> dict[str, float]:
        """PSNR-Y on each test set."""
        workload = self.loaded.workload
        return {
            name: evaluator(workload, workload.samples(path, limit=self.images))(predict)
            for name, path in self.tests.items()
        }

    def read(self, arm: Arm, seed: int, group: Processes) -> Read:
        """Train an arm, or go on with it, and read out its widths; or the result that is on the disk."""
        folder = self.work / f"{slug(arm.value)}-{self.steps}-steps-seed-{seed}"
        path = folder / "result.json"
        if path.is_file():
            return Read.model_validate_json(path.read_bytes())
        note(f"{arm.value}, seed {seed}")
        if arm in CHANGES:
            quality, seconds = self._supernet(arm, seed, folder, group)
        else:
            quality, seconds = self._one_by_one(arm, seed, folder)
        found = Read(arm=arm, seed=seed, seconds=seconds, quality=quality)
        write_text(path, found.model_dump_json(indent=1) + "\n")
        return found

    def _supernet(
        self, arm: Arm, seed: int, folder: Path, group: Processes
    ) -> tuple[dict[int, dict[str, float]], float]:
        workload = self.loaded.workload
        side = max(CROP_SIDE, workload.min_input_side)
        graph = trainable_graph(capture(self.loaded.module, workload.example_input(side, side)))
        inputs = workload.calibration(self.train, CROPS, side, seed)
        supernet = Supernet(graph, ElasticSpace.of(graph, WIDTHS))
        supernet.fit(inputs)
        base = dataclasses.replace(EqnetSettings.for_images(), steps=self.steps, seed=seed, log_every=20)
        settings = dataclasses.replace(base, **CHANGES[arm])
        data = workload.training(self.train, settings.patch, seed)
        trainer = Trainer(supernet, data, settings, group, images=True, path=folder / "supernet.safetensors")
        position = trainer.run()
        subnets = Subnets(supernet, inputs, evaluator(workload, workload.held_out(self.train)))
        models = {b: subnets.export(subnets.supernet.space.uniform(b, FORM), Target("subnet")) for b in WIDTHS}
        return {bits: self.scores(model.simulate()) for bits, model in models.items()}, position.seconds

    def _one_by_one(self, arm: Arm, seed: int, folder: Path) -> tuple[dict[int, dict[str, float]], float]:
        workload, quality, seconds = self.loaded.workload, {}, 0.0
        side = max(CROP_SIDE, workload.min_input_side)
        inputs = workload.calibration(self.train, CROPS, side, seed)
        teacher = prepare(capture(self.loaded.module, workload.example_input(side, side)))
        held_out = evaluator(workload, workload.held_out(self.train))
        for bits in WIDTHS:
            model = rounded(self.loaded, inputs, bits, by_damage=arm is Arm.DAMAGE)
            if arm is Arm.DEDICATED:
                given = EqnetSettings.for_images()
                settings = RecoverySettings(
                    steps=self.steps, batch=given.batch, patch=given.patch, scale_rate=1e-3, zero_rate=0.02,
                    bias_rate=0.02, ema=0.98, feature_weight=0.01, checks=8, seed=seed,
                )  # fmt: skip
                result = recover(
                    model, teacher, workload.training(self.train, settings.patch, seed), settings,
                    score=held_out, task_loss=workload.loss, folder=folder / f"{bits}-bits",
                )  # fmt: skip
                model, seconds = result.model, seconds + result.seconds
            quality[bits] = self.scores(model.simulate())
        return quality, seconds


def table(reads: Sequence[Read], sets: Sequence[str], exact: dict[str, float]) -> str:
    """Arms against widths, on each test set; with the minutes that an arm took for all widths together."""
    columns = [(bits, name) for name in sets for bits in WIDTHS]
    rows = [["float", *(f"{exact[name]:.3f}" for _, name in columns), "-"]]
    for arm in Arm:
        mine = [r for r in reads if r.arm is arm]
        if mine:
            minutes = statistics.fmean(r.seconds for r in mine) / 60
            cells = [spread([r.quality[bits][name] for r in mine]) for bits, name in columns]
            rows.append([arm.value, *cells, f"{minutes:.1f}" if minutes else "-"])
    return markdown_table(["arm", *(f"{name}, {bits} bits" for bits, name in columns), "training minutes"], rows)


def study_of(given: argparse.Namespace) -> Study:
    """What the command line asks for."""
    loaded = load_checkpoint(given.data_root / "checkpoints" / f"{given.network}.pth")
    if loaded.workload.unit != "dB":
        raise UsageError(f"--network {given.network} is not a network for super-resolution; see benchmarks.eqnet_study")
    test = given.data_root / "sr" / "test"
    return Study(
        loaded=loaded, train=given.data_root / "sr" / "train" / "BSDS500", tests={n: test / n for n in SETS},
        images=given.images, steps=given.steps, work=given.out / command.WORK / given.network,
    )  # fmt: skip


def benchmark(given: argparse.Namespace) -> str:
    """Make what is missing, seed by seed; write the results and return the text of the table."""
    torch.set_num_threads(given.threads)
    study, reads, text = study_of(given), [], ""
    exact = study.scores(study.loaded.module)
    with processes() as group:
        for seed in range(given.seeds):
            ablated = given.ablations and seed == 0
            reads += [study.read(arm, seed, group) for arm in Arm if ablated or arm not in ABLATIONS]
            text = (
                f"## {given.network}, EQ-Net-style (adapted), {given.steps} steps, {seed + 1} seed(s), PSNR-Y in dB\n\n"
                + table(reads, SETS, exact)
            )
            results = {"network": given.network, "float": exact, "reads": [r.model_dump(mode="json") for r in reads]}
            # After each seed, so that a study that is stopped has whole ones.
            write_results(given.out, "eqnet_study_sr", results, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = command.study_parser(
        "Compare an elastic supernet for images with trainings of one width.", "benchmarks/results/eqnet_study_sr",
        "folder of checkpoints/, sr/train and sr/test",
    )  # fmt: skip
    made.add_argument("--network", default="fsrcnn_x4", help="stem of a checkpoint")
    made.add_argument("--images", type=int, default=None, help="pictures of each test set at most (for a trial run)")
    made.add_argument("--no-ablations", dest="ablations", action="store_false", help="the main arms only")
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
