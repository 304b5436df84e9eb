"""The plans that a job looked at, as steps of its report."""

from __future__ import annotations

from bitwright.report.schema import PlanStep
from bitwright.runs.job import Job
from compress.plan import Plan


def plan_steps(job: Job, plan: Plan) -> tuple[PlanStep, ...]:
    """Every plan from the first to the one that was built, which is marked as chosen."""
    total = len(job.first_plan().quantized_layers)
    nearest, better = job.run.values("nearest"), job.run.values("reconstructed")
    precision = job.request.precision
    how, drop = f"all layers, rounded {precision.rounded}", nearest["drop"]
    if precision.is_float:
        # What was compared in torch is the float network with itself.
        how, drop = f"nothing quantised, all layers in {precision}", None
    steps = [PlanStep(step=0, quantized_layers=total, drop_db=drop, note=how)]
    if better["skipped"] is None:
        steps.append(PlanStep(step=1, quantized_layers=total, drop_db=better["drop"], note="all layers, reconstructed"))
    trained = job.run.values("recovered")
    if trained["skipped"] is None:
        note = f"all layers, {trained['steps']} steps of recovery training"
        steps.append(PlanStep(step=len(steps), quantized_layers=total, drop_db=trained["drop"], note=note))
    for trial in job.run.values("select")["trials"][1:]:
        count = trial[precision.value]
        steps.append(PlanStep(step=len(steps), quantized_layers=count, drop_db=trial["drop"], note="some in float"))
    count = len(plan.quantized_layers)
    if all(step.quantized_layers != count for step in steps):
        steps.append(PlanStep(step=len(steps), quantized_layers=count, drop_db=None, note="others lack kernels"))
    last = max(i for i, step in enumerate(steps) if step.quantized_layers == count)
    steps[last] = steps[last].model_copy(update={"chosen": True})
    return tuple(steps)
