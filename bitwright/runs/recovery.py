"""The stage of recovery training, between reconstruction and the choice of a plan; off unless it is asked for."""

from __future__ import annotations

import shutil
from dataclasses import replace

from bitwright.foundation.progress import note
from bitwright.runs.job import Job
from compress.compressed import CompressedModel
from compress.recovery.recover import Recovered, recover
from compress.recovery.scores import LogitAgreement
from compress.recovery.settings import Arithmetic, RecoverySettings
from compress.training.processes import NOTHING, give_order
from workloads.classification.task import Classification

RECOVERED = "work/recovered.safetensors"
FOLDER = "work/recovery"


def settings_of(job: Job) -> RecoverySettings | None:
    """What the request asks for, less what trains masks; None where it asks for no training."""
    request = job.request
    if request.recover is None and request.recover_minutes is None:
        return None
    steps = None if request.recover is None else request.recover - request.mask_steps
    minutes = None if request.recover_minutes is None else (1 - request.mask_share) * request.recover_minutes
    return settings_for(job, steps, minutes)


def settings_for(job: Job, steps: int | None, minutes: float | None) -> RecoverySettings:
    """A training of that length with the task's own defaults, and what the request asks for."""
    request = job.request
    return replace(
        _defaults(job, steps, minutes),
        arithmetic=Arithmetic(request.arithmetic),
        truth_weight=request.truth,
        self_distillation=request.self_distillation,
    )


def _defaults(job: Job, steps: int | None, minutes: float | None) -> RecoverySettings:
    request = job.request
    if isinstance(job.loaded.workload, Classification):
        bits = min(
            (layer.weight.bits for layer in job.first_plan().layers.values() if layer.weight is not None), default=8
        )
        return RecoverySettings.for_classifier(bits, steps=steps, minutes=minutes, seed=request.seed)
    # Inner tensors of a narrower network have no counterpart.
    # What RFDN x4 was trained with, not tuned: in trials of 40 steps with all rates scaled together, a weight rate of
    # 0.03 gained 0.003 dB on held-out samples and 0.01 nothing; one with 0.1 was stopped. 0.02 itself had no trial.
    # Ranges at a scale rate of 2e-4 kept 0.05 dB more of Set14's page of text after 250 steps, and lost more in all
    # after 2400: 0.047 dB on Set14 and 0.025 on BSD100, with 1e-3 0.041 and 0.022. Stretched crops keep that page and
    # cost photographs: narrowed, a share of 0.05 lost 0.10 dB of it and 0.031 on BSD100 after 5000 steps, none 0.31 and
    # 0.022 after 2400; narrowed less, a share of 0.02 lost 0.15 dB of it and 0.025 after 4500.
    return RecoverySettings(
        steps=steps, minutes=minutes, batch=8, scale_rate=1e-3, zero_rate=0.02, bias_rate=0.02, ema=0.98,
        feature_weight=0.0 if job.narrower else 0.01, channels_last=True, seed=request.seed,
    )  # fmt: skip


def train(job: Job) -> Recovered:
    """Train the model of the stage before against the dense, balanced float network, in all processes together."""
    model = CompressedModel.load(job.run.path / str(job.run.values("reconstructed")["model"]), job.graph)
    settings, workload = settings_of(job), job.loaded.workload
    assert settings is not None
    teacher = job.given if job.narrower else job.teacher
    classifies = isinstance(workload, Classification)
    return recover(
        model,
        teacher,
        workload.training(job.request.data, settings.patch, job.request.seed, stretched=job.request.stretched),
        settings,
        score=LogitAgreement(teacher, job.held_out) if classifies else job.evaluate,
        task_loss=workload.loss,
        folder=job.run.path / FOLDER,
        real=job.balanced,
    )


def recovered(job: Job) -> None:
    """The stage: training, of which nothing is kept that is not better; other processes are told to join in."""
    before = job.run.values("reconstructed")
    if settings_of(job) is None:
        give_order(NOTHING)
        values = {"drop": before["drop"], "model": before["model"], "skipped": "not asked for"}
        job.run.finish_stage("recovered", [], values)
        return
    give_order(str(job.run.path.resolve()))
    result = train(job)
    result.model.save(job.run.path / RECOVERED)
    workload = job.loaded.workload
    after = job.evaluate(result.model.simulate()) if isinstance(workload, Classification) else result.after
    drop = float(job.run.values("nearest")["float_quality"]) - after
    note(f"with recovery training of {result.steps} steps: drop {drop:.3f} {workload.unit} on held-out samples")
    job.run.finish_stage(
        "recovered",
        [RECOVERED],
        {"drop": drop, "model": RECOVERED, "skipped": None, "steps": result.steps, "seconds": result.seconds},
    )
    shutil.rmtree(job.run.path / FOLDER, ignore_errors=True)
