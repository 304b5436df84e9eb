"""A classifier in 8 or 4 bits, before and after recovery training; simulated in torch, on the whole test set."""

from __future__ import annotations

import argparse

from pydantic import BaseModel, ConfigDict

from benchmarks.command import WORK
from benchmarks.uniform_rounding import rounded
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from compress.graph import capture
from compress.preparation import prepare
from compress.recovery.recover import recover
from compress.recovery.scores import LogitAgreement
from compress.recovery.settings import RecoverySettings
from workloads.loading import load_checkpoint

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
    side = workload.min_input_side
    model = rounded(loaded, workload.calibration(data, _CALIBRATION, side, seed), bits)
    teacher = prepare(capture(loaded.module, workload.example_input(side, side)))
    held_out, test = workload.held_out(data), workload.samples(data)

    before = workload.evaluate(model.simulate(), test).mean
    note(f"{given.classifier}, {bits} bits, seed {seed}: {before:.2f} % before training")
    settings = RecoverySettings.for_classifier(bits, steps=given.steps, checks=8, seed=seed)
    result = recover(
        model, teacher, workload.training(data, side, seed), settings,
        score=LogitAgreement(teacher, held_out), task_loss=workload.loss, folder=folder,
    )  # fmt: skip
    found = Trained(
        bits=bits, seed=seed, float_top1=workload.evaluate(teacher, test).mean, quantised_top1=before,
        trained_top1=workload.evaluate(result.model.simulate(), test).mean, steps=result.steps,
        best_step=result.best_step, seconds=result.seconds,
    )  # fmt: skip
    write_text(path, found.model_dump_json(indent=1) + "\n")
    return found
