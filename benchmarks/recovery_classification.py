"""A classifier in 8 or 4 bits, before and after recovery training; simulated in torch, on the whole test set."""

from __future__ import annotations

import argparse

from pydantic import BaseModel, ConfigDict

from benchmarks.command import WORK
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from compress.bias_correction import correct_biases
from compress.compressed import CompressedModel
from compress.graph import capture, layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.preparation import prepare
from compress.quantizers import A8, W8
from compress.ranges import RangeMethod, set_ranges
from compress.recovery.recover import recover
from compress.recovery.scores import logit_agreement
from compress.recovery.settings import RecoverySettings
from compress.statistics import collect
from workloads.loading import load_checkpoint
from workloads.workload import LoadedModel

BITS = (8, 4)
TITLES = ("weights and activations", "seed", "float %", "quantised %", "trained %", "drop", "steps", "minutes")
_CALIBRATION = 1024


class Trained(BaseModel):
    """Top-1 accuracies in percent on the test set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: int
    seed: int
    float_top1: float
    quantised_top1: float
    trained_top1: float
    steps: int
    best_step: int
    seconds: float

    def cells(self) -> list[str]:
        """A row of the table."""
        accuracies = [f"{value:.2f}" for value in (self.float_top1, self.quantised_top1, self.trained_top1)]
        name = f"{self.bits} bits" if self.bits == 8 else f"{self.bits} bits, first and last layer 8"
        drop = f"{self.float_top1 - self.trained_top1:.2f}"
        return [name, str(self.seed), *accuracies, drop, str(self.steps), f"{self.seconds / 60:.1f}"]


def quantised(loaded: LoadedModel, given: argparse.Namespace, bits: int, seed: int) -> CompressedModel:
    """The network by nearest rounding with corrected biases; the first and the last layer keep 8 bits."""
    workload, data = loaded.workload, given.data_root / "classification" / "cifar10"
    graph = prepare(capture(loaded.module, workload.example_input(workload.min_input_side, workload.min_input_side)))
    names = [name for name, _ in layer_nodes(graph)]
    layers = {}
    for name in names:
        width = 8 if name in (names[0], names[-1]) else bits
        layers[name] = LayerPlan(
            weight=W8.model_copy(update={"bits": width}), activation=A8.model_copy(update={"bits": width})
        )
    plan = Plan(
        architecture=loaded.architecture, device="simulated", runtime="none", float_precision="fp32",
        placement=Placement.INPUTS, layers=layers,
    )  # fmt: skip
    inputs = workload.calibration(data, _CALIBRATION, workload.min_input_side, seed)
    seen = collect(graph, inputs, {site.tensor.name for site in place(graph, plan)})
    model = set_ranges(graph, plan, seen, RangeMethod.MSE, RangeMethod.MSE)
    correct_biases(model, inputs)
    return model


def trained(given: argparse.Namespace, bits: int, seed: int) -> Trained:
    """One training, or its result if it is on the disk; a training that was stopped goes on."""
    folder = given.out / WORK / given.classifier / f"{bits}-bits-{given.steps}-steps-seed-{seed}"
    path = folder / "result.json"
    if path.is_file():
        note(f"{given.classifier}, {bits} bits, seed {seed}: done before")
        return Trained.model_validate_json(path.read_bytes())
    data = given.data_root / "classification" / "cifar10"
    loaded = load_checkpoint(given.data_root / "classification" / "checkpoints" / f"{given.classifier}.pth")
    workload = loaded.workload
    model = quantised(loaded, given, bits, seed)
    side = workload.min_input_side
    teacher = prepare(capture(loaded.module, workload.example_input(side, side)))
    held_out, test = workload.held_out(data), workload.samples(data)

    before = workload.evaluate(model.simulate(), test).mean
    note(f"{given.classifier}, {bits} bits, seed {seed}: {before:.2f} % before training")
    settings = RecoverySettings.for_classifier(bits, steps=given.steps, checks=8, seed=seed)
    result = recover(
        model, teacher, workload.training(data, side, seed), settings,
        score=logit_agreement(teacher, held_out), task_loss=workload.loss, folder=folder,
    )  # fmt: skip
    found = Trained(
        bits=bits, seed=seed, float_top1=workload.evaluate(teacher, test).mean, quantised_top1=before,
        trained_top1=workload.evaluate(result.model.simulate(), test).mean, steps=result.steps,
        best_step=result.best_step, seconds=result.seconds,
    )  # fmt: skip
    write_text(path, found.model_dump_json(indent=1) + "\n")
    return found
