"""Training of masks within the stage of pruning, where a share of the recovery training is given to it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from bitwright.foundation.files import write_json
from bitwright.foundation.progress import note
from bitwright.report.pruned import MaskTrainingResult
from bitwright.runs.job import DENSE, SPARSE, Job
from bitwright.runs.recovery import settings_for
from compress.graph import load_graph
from compress.nm_pattern import Sparsity
from compress.recovery.mask_settings import MaskSettings
from compress.recovery.scores import LogitAgreement
from compress.recovery.settings import RecoverySettings
from compress.recovery.train_masks import TrainedMasks, train_masks
from compress.sparsity.diagnostics import Row
from compress.sparsity.diagnostics_plot import PANELS
from compress.sparsity.one_shot import input_norms, sparse_weights
from compress.sparsity.step_adam import BETAS, averaging_steps
from compress.sparsity.training import Restrict
from workloads.classification.task import Classification

PATTERNS = "work/patterns.json"
"""The pattern of each layer call, for the processes that take part in the training."""
FOLDER = "work/masks"
DIAGNOSTICS = "work/masks.json"


def mask_settings(job: Job) -> tuple[RecoverySettings, MaskSettings] | None:
    """What the request asks for; None where masks are taken once and not trained."""
    request, share = job.request, job.request.mask_share
    if not share:
        return None
    steps = None if request.recover is None else request.mask_steps
    minutes = None if request.recover_minutes is None else share * request.recover_minutes
    masks = MaskSettings(
        method=request.sparsity_method,
        dense=request.sparsity_dense,
        fine_tune=request.sparsity_fine_tune,
        restrict=Restrict(request.sparsity_restrict),
        period=request.sparsity_period,
        freeze_v_at=request.sparsity_freeze_v,
        rate=request.sparsity_rate,
    )
    return settings_for(job, steps, minutes), masks


def save_patterns(job: Job, patterns: dict[str, Sparsity | None]) -> None:
    """Write what `train` reads."""
    write_json(job.run.path / PATTERNS, {name: None if p is None else str(p) for name, p in patterns.items()})


def train(job: Job) -> TrainedMasks:
    """Train the dense, balanced network that the stage left in its patterns, in all processes together."""
    asked = mask_settings(job)
    assert asked is not None
    settings, masks = asked
    dense = load_graph(job.graph, job.run.path / DENSE)
    told: dict[str, str | None] = json.loads((job.run.path / PATTERNS).read_text(encoding="utf-8"))
    patterns = {name: None if text is None else Sparsity.parse(text) for name, text in told.items()}
    wanted = sparse_weights(dense, job.table, patterns)
    # Masks that were taken at once stay, and so do the weights that were solved for under them.
    start = load_graph(job.graph, job.run.path / SPARSE) if job.request.sparsity_method == "one_shot" else None
    workload = job.loaded.workload
    return train_masks(
        dense,
        wanted,
        input_norms(dense, job.calibration, set(wanted)),
        workload.training(job.request.data, settings.patch, job.request.seed, stretched=job.request.stretched),
        settings,
        masks,
        score=LogitAgreement(dense, job.held_out) if isinstance(workload, Classification) else job.evaluate,
        task_loss=workload.loss,
        folder=job.run.path / FOLDER,
        start=start,
    )


def keep_result(job: Job, result: TrainedMasks) -> None:
    """Write what the report tells of a training."""
    method = job.request.sparsity_method
    note(f"masks trained by {method} in {result.steps} steps: score {result.before:.4f} -> {result.after:.4f}")
    first = 2 * averaging_steps(BETAS[1])
    if job.request.sparsity_freeze_v == "auto" and result.steps < first:
        note(f"sparsity_freeze_v=auto changed nothing: it freezes after {first} steps or more, of {result.steps} here")
    told = MaskTrainingResult(
        method=method,
        steps=result.steps,
        best_step=result.best_step,
        seconds=result.seconds,
        before=result.before,
        after=result.after,
        **_curves(result.rows),
    )
    write_json(job.run.path / DIAGNOSTICS, told.model_dump(mode="json"))


def mask_result(job: Job) -> MaskTrainingResult | None:
    """What `keep_result` wrote; None where masks were not trained."""
    path = job.run.path / DIAGNOSTICS
    if mask_settings(job) is None or not path.is_file():
        return None
    values = job.run.values("sparse")
    drops = {name: values.get(name) for name in ("untrained_drop", "trained_drop")}
    return MaskTrainingResult.model_validate_json(path.read_bytes()).model_copy(update=drops)


def _curves(rows: tuple[Row, ...]) -> dict[str, Any]:
    """Means over layers of each figure that is drawn, by step."""
    by_step: dict[int, list[dict[str, float]]] = {}
    for step, _, values in rows:
        by_step.setdefault(step, []).append(asdict(values))
    curves = {
        name: tuple(sum(layer[name] for layer in layers) / len(layers) for layers in by_step.values())
        for name in PANELS
    }
    return {"at_steps": tuple(by_step), "curves": curves}
