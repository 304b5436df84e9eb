"""What a run's report warns of: what could not be shown here, noise of times, and what quality was measured on."""

from __future__ import annotations

from bitwright.runs.job import Job
from bitwright.runs.proof import why_not_run
from deploy.engines.sessions import opens
from deploy.latency import ComparisonResult
from workloads.classification.task import Classification

_HELD_OUT = "quality was measured on held-out images of --data; give --eval for an independent set"
_HELD_OUT_CLASSES = (
    "quality was measured on held-out training images of --data, which the network may have learned, so accuracy and "
    "drop may look better than on new images; give --eval for an independent set"
)


def warnings_of(job: Job, timed: ComparisonResult | None) -> list[str]:
    """A sentence for each; `timed`: None where nothing was."""
    found = list(job.warnings)
    why_not = why_not_run(job)
    if why_not:
        run = job.run.path
        there = f". From here: {job.measure_there}, or by hand: bitwright bundle {run} --out FILE"
        found.append(
            f"The engine was built for {job.profile.name} and audited, but neither run nor timed: {why_not}. "
            f"On such a machine: bitwright verify {run}, bitwright measure {run}{there if opens(job.runtime) else ''}"
        )
    elif job.runtime.why_not_timed:
        found.append(f"Nothing was timed: {job.runtime.why_not_timed}")
    elif job.why_foreign:
        found.append(
            f"The engine was built for {job.profile.name} and its quality computed here; {job.why_foreign}, so what it "
            f"executes there and how long it takes is measured there: {job.measure_there}, or by hand: "
            f"bitwright bundle {job.run.path} --out FILE"
        )
    for layer in job.run.values("engine")["without_kernel"]:
        found.append(f"{layer}: {job.runtime} has no {job.request.precision.kernel} for it; left in float")
    for measurement in () if timed is None else timed.measurements:
        found += [f"{measurement.name}: {reason.value}" for reason in measurement.noise]
        if not measurement.steady:
            found.append(f"{measurement.name}: latency did not become steady during warm-up")
    if job.request.eval_data is None and not why_not:
        found.append(_HELD_OUT_CLASSES if isinstance(job.loaded.workload, Classification) else _HELD_OUT)
    return found
