"""The stages of a compression job. Each reads what earlier ones left in the run folder and can be repeated."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, fx

from bitwright.foundation.files import atomic_path
from bitwright.foundation.progress import note
from bitwright.runs.built import build_audited, engine_files, files_of, shapes_of
from bitwright.runs.job import BALANCED, FIRST_STAGE, SPARSE, Job
from bitwright.runs.precision import Precision
from bitwright.runs.runtime_choice import baseline_runtime, require_installed
from bitwright.runs.settled import settle_runtime
from bitwright.runs.sparsity import PACKED, sparse_facts
from compress.balancing import balance
from compress.bias_correction import correct_biases
from compress.compressed import CompressedModel
from compress.equality import prove_equal
from compress.equalization import layer_inputs
from compress.graph import load_graph, save_graph
from compress.placement import place
from compress.plan import Plan
from compress.ranges import RangeMethod, set_ranges
from compress.reconstruction import ReconstructionSettings, reconstruct
from compress.second_order_rounding import factors, round_weights
from compress.statistics import collect
from deploy.engines import build_engine, read_spec
from deploy.engines.runtime_packages import runtime_version
from deploy.onnx_export import export_float
from search.fallback import fallback_order, meet_drop
from search.layer_sensitivity import layer_sensitivity, restricted

NEAREST = "work/nearest.safetensors"
RECONSTRUCTED = "work/reconstructed.safetensors"
BLOCKS = "work/blocks"
SELECTED = "work/selected.safetensors"
FLOAT = "float"

PROBED = 32
"""Calibration inputs that the answer to rounding noise is probed on: a backward pass each."""

SAFETY = 0.5
"""Share of the allowed drop that a plan may use on the held-out samples, because the next pictures differ: RFDN x4 in
8 bits loses 0.037 dB on held-out photographs of BSDS500 and 0.055 dB on Set14."""


def float_baseline(job: Job) -> None:
    """The float network in ONNX Runtime, or on the engine's GPU: what speed-up and drop are measured against."""
    # A runtime that is not installed is told now, not when hours of calibration and training are done.
    require_installed(job.profile, job.runtime, job.request.precision)
    export_float(job.original, job.example, job.float_onnx)
    settle_runtime(job)
    # Nor is a network of which nothing can be quantised taken through what comes before its plan.
    job.first_plan()
    _build_baseline(job)
    job.run.finish_stage(FIRST_STAGE, baseline_files(job.run.path), {"runtime": job.runtime.value})


def baseline_files(run: Path) -> tuple[str, ...]:
    """The files of a run's float baseline, relative to it."""
    return engine_files(run, FLOAT)


def renew_baseline(job: Job, judged: str) -> None:
    """Build the baseline's engine again where it was built for another runtime, or with another version of it.

    A run may be trained on one machine and go on on another; of what it holds, only engines depend on versions. Of
    another runtime, what the stage `judged` says of the baseline is found out again too.
    """
    spec, runtime = read_spec(job.float_onnx.parent), baseline_runtime(job.profile, job.runtime)
    installed = runtime_version(runtime)
    if (spec.runtime, spec.runtime_version) == (runtime, installed):
        return
    note(
        f"the float engine was built with {spec.runtime} {spec.runtime_version}: built again with {runtime} {installed}"
    )
    _build_baseline(job)
    if spec.runtime is not runtime:
        job.run.journal.drop(judged)
    job.run.renew_stage(FIRST_STAGE, baseline_files(job.run.path))


def _build_baseline(job: Job) -> None:
    runtime = baseline_runtime(job.profile, job.runtime)
    build_engine(
        job.float_onnx,
        job.float_onnx.parent,
        runtime=runtime,
        profile=job.profile.id,
        super_resolution=job.picture_format,
        device=job.profile,
        shapes=shapes_of(job) if runtime.compiles else None,
    )


def balanced_graph(job: Job) -> tuple[fx.GraphModule, dict[str, object]]:
    """The float graph with its channels balanced, where that is asked for, and what is told of it."""
    graph, inputs = job.graph, job.calibration
    if not job.request.equalize or job.request.precision.is_float:
        return graph, {}
    balanced = balance(graph, collect(graph, inputs, layer_inputs(graph)), inputs[:PROBED])
    prove_equal(graph, balanced.graph, job.example, tolerance=1e-3)
    return balanced.graph, {"predicted_error_ratio": balanced.after / balanced.before}


def nearest(job: Job) -> None:
    """Balance channels (pruning has done so), set ranges on calibration data, round, correct biases.

    To nearest; weights in blocks of 4 bits by the damage to each layer's output.
    """
    plan, inputs = job.first_plan(), job.calibration
    sparse = job.request.sparsity is not None
    graph, values = (load_graph(job.graph, job.run.path / SPARSE), {}) if sparse else balanced_graph(job)
    statistics = collect(graph, inputs, {site.tensor.name for site in place(graph, plan)})
    method = RangeMethod(job.request.range_method)
    blocks = job.request.precision is Precision.W4A16
    model = set_ranges(graph, plan, statistics, method, RangeMethod.MSE if blocks else method)
    if blocks:
        round_weights(model, graph, factors(graph, inputs, set(model.weights)))
    save_graph(graph, job.run.path / BALANCED)
    correct_biases(model, inputs, job.teacher if sparse else None)
    model.save(job.run.path / NEAREST)
    reference = job.evaluate(job.original)
    drop = reference - job.evaluate(model.simulate())
    precision, unit = job.request.precision, job.loaded.workload.unit
    if precision.is_float:
        note(f"{precision}: nothing is quantised; what it costs is measured on the engine")
    else:
        note(f"{precision.stored}, rounded {precision.rounded}: drop {drop:.3f} {unit} on held-out samples")
    job.run.finish_stage("nearest", [BALANCED, NEAREST], {**values, "float_quality": reference, "drop": drop})


def allowed_drop(job: Job) -> float | None:
    """The drop that a plan may show on the held-out samples; None where the user set no limit."""
    return None if job.request.max_drop is None else SAFETY * job.request.max_drop


def reconstructed(job: Job) -> None:
    """Reconstruct rounding and ranges against the float network's output, unless nearest rounding is good enough."""
    before = float(job.run.values("nearest")["drop"])
    allowed = allowed_drop(job)
    if job.request.precision is not Precision.INT8:
        precision = job.request.precision
        why = "nothing is quantised" if precision.is_float else f"{precision} is rounded {precision.rounded}"
        if not precision.is_float:
            note(f"{why}: no reconstruction")
        values = {"drop": before, "skipped": why, "model": NEAREST}
        job.run.finish_stage("reconstructed", [], values)
        return
    if not job.request.reconstruct or (allowed is not None and before <= allowed):
        why = "not asked for" if not job.request.reconstruct else "not needed"
        job.run.finish_stage("reconstructed", [], {"drop": before, "skipped": why, "model": NEAREST})
        return
    model = CompressedModel.load(job.run.path / NEAREST, job.graph)
    settings = ReconstructionSettings(seed=job.request.seed)
    if job.request.iterations is not None:
        settings = ReconstructionSettings(iterations=job.request.iterations, seed=job.request.seed)
    better = reconstruct(
        model,
        job.calibration,
        settings=settings,
        reference=job.teacher,
        real=job.balanced,
        resume=_load_blocks(job),
        on_block=lambda n, s: _save_block(job, n, s),
    )
    better.save(job.run.path / RECONSTRUCTED)
    reference = float(job.run.values("nearest")["float_quality"])
    drop = reference - job.evaluate(better.simulate())
    note(f"8 bits with reconstructed rounding: drop {drop:.3f} {job.loaded.workload.unit} on held-out samples")
    chosen = RECONSTRUCTED if drop <= before else NEAREST
    values = {"drop": min(drop, before), "skipped": None, "model": chosen}
    job.run.finish_stage("reconstructed", [RECONSTRUCTED], values)
    shutil.rmtree(job.run.path / BLOCKS, ignore_errors=True)


def _save_block(job: Job, name: str, state: dict[str, Tensor]) -> None:
    with atomic_path(job.run.path / BLOCKS / f"{name.replace('/', '_')}.safetensors") as temporary:
        save_file({k: v.contiguous().clone() for k, v in state.items()}, temporary, metadata={"block": name})


def _load_blocks(job: Job) -> dict[str, dict[str, Tensor]]:
    states = {}
    for path in sorted((job.run.path / BLOCKS).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            states[file.metadata()["block"]] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return states


def select(job: Job) -> None:
    """Choose the plan: all layers quantised, or as few of them in float as the allowed drop asks for."""
    done = job.run.values("recovered")
    model = CompressedModel.load(job.run.path / str(done["model"]), job.graph)
    known = min(float(done["drop"]), float(job.run.values("nearest")["drop"]))
    reference = float(job.run.values("nearest")["float_quality"])
    allowed = allowed_drop(job)
    macs = {row.name: row.macs for row in job.table.rows}
    sensitivity = layer_sensitivity(model, job.evaluate_few, job.balanced)
    limit = float("inf") if allowed is None else allowed

    def drop_of(plan: Plan) -> float:
        return reference - job.evaluate(restricted(model, plan, job.balanced).simulate())

    trials = meet_drop(model.plan, fallback_order(sensitivity, macs), limit, drop_of, known)
    model = restricted(model, trials[-1].plan, job.balanced)
    model.save(job.run.path / SELECTED)
    steps = [{job.request.precision.value: len(trial.plan.quantized_layers), "drop": trial.drop} for trial in trials]
    job.run.finish_stage("select", [SELECTED], {"sensitivity": sensitivity, "trials": steps})


def build(job: Job) -> None:
    """Write the ONNX file, build the engine from it and audit what it executes."""
    model = CompressedModel.load(job.run.path / SELECTED, job.graph)
    built = build_audited(job, model, job.run.path)
    padded = {name: list(pair) for name, pair in built.padded.items()}
    values = {"padded": padded, "without_kernel": list(built.without_kernel)}
    files = list(files_of(job.run.path))
    if job.request.sparsity is not None:
        values["sparsity"] = sparse_facts(job, built).model_dump()
        files.append(PACKED)
    job.run.finish_stage("engine", files, values)
