"""What one device gets of a supernet: search, integers, the exported file, and an engine where its runtime is here."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx

from bitwright.foundation.errors import UsageError, VerificationError
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from bitwright.runs.built import ENGINE, MODEL, ONNX, PLAN, Built, build_audited
from bitwright.runs.eqnet_request import EqnetRequest
from bitwright.runs.eqnet_result import DevicePlan, FrontPoint
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import BALANCED, Job, choose_runtime, default_placement, float_precision
from bitwright.runs.request import CompressRequest
from compress.compressed import CompressedModel
from compress.graph import save_graph
from compress.layer_table import LayerTable
from compress.plan import Placement
from deploy.audit import UNKNOWN, Audit
from deploy.engine import Engine, FloatPrecision, Runtime
from deploy.engines import load_engine
from deploy.onnx_export import export_for
from deploy.verify import engine_predict
from hw_profiles import DeviceProfile, RuntimeEngine, installed_runtimes, load_profile
from search.eqnet.device_search import DeviceFound, DeviceSearchSettings, search_device
from search.eqnet.devices import DeviceChoice, device_choice, device_cost, illegal_layers
from search.eqnet.export import Target
from search.eqnet.genetic import GeneticSettings
from search.eqnet.predictor import Predictor
from search.eqnet.subnets import Subnets
from search.layer_sensitivity import evaluator, restricted
from workloads.workload import LoadedModel

DEVICE = "device.json"
FLOAT_BIASES = (RuntimeEngine.TENSORRT, RuntimeEngine.TENSORRT_RTX)
"""Runtimes that want the biases of integer layers in float."""


@dataclass(frozen=True)
class Trained:
    """A trained supernet with all that devices are searched with. `original`: the network as it was given."""

    request: EqnetRequest
    loaded: LoadedModel
    original: fx.GraphModule
    example: Tensor
    table: LayerTable
    subnets: Subnets
    float_quality: float
    label: str


def choice_for(trained: Trained, device: str) -> DeviceChoice:
    """The runtime of a device and what it executes of this network."""
    profile = load_profile(device)
    space = trained.subnets.supernet.space
    native = not trained.request.emulated
    return device_choice(profile, _runtime(profile), trained.table, space, native_only=native)


def device_plan(trained: Trained, choice: DeviceChoice, predictor: Predictor | None, folder: Path) -> DevicePlan:
    """Search, export, build and describe; what was done before is read again."""
    if (folder / DEVICE).is_file():
        note(f"{choice.profile.id}: done before")
        return DevicePlan.model_validate_json((folder / DEVICE).read_bytes())
    request, space = trained.request, trained.subnets.supernet.space
    precision = _float_precision(choice)
    cost = device_cost(choice, trained.table, space, trained.subnets.supernet.template, precision)
    settings = DeviceSearchSettings(
        budget=request.budget, trials=request.trials, seed=request.seed,
        genetic=GeneticSettings(generations=request.generations, seed=request.seed),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    found = search_device(
        choice, space, cost, predictor if choice.has_choice else None, trained.subnets.quality, settings,
        folder.parent / f"{choice.profile.id}.study",
    )  # fmt: skip
    model = _integers(trained, choice, found, precision)
    remarks = illegal_layers(model.plan, choice.profile, trained.table)
    built = _write(trained, choice, model, folder)
    final = model if built is None else built.model
    engine = None if built is None else load_engine(folder / ENGINE, 1, device=choice.profile)
    elsewhere = None if engine is None else engine.why_not_here()
    runs = engine if elsewhere is None else None
    evaluated, engine_quality = _evaluated(trained, final, runs)
    notes = [*remarks]
    if engine_quality is not None:
        notes.append(f"on the engine: {engine_quality:.3f} {trained.loaded.workload.unit} on held-out pictures")
    if elsewhere is not None:
        notes.append(f"the engine was built and audited, but not run: {elsewhere}")
    if built is not None and built.without_kernel:
        notes.append(f"without integer kernel, left in float: {', '.join(built.without_kernel)}")
    result = DevicePlan(
        device=choice.profile.id, runtime=choice.runtime, form=choice.form.name, label=trained.label,
        widths={n: (c.weight_bits, c.activation_bits)
                for n, c in zip(space.names, found.chosen.configuration.layers, strict=True)},
        runs_as=choice.runs_as, in_float=choice.in_float, cost=found.cost, unit=cost.unit,
        cost_source=f"{cost.source}, input of {trained.table.input_shape[2]}x{trained.table.input_shape[3]}",
        predicted=found.chosen.predicted, quality=trained.subnets.evaluate(final.simulate()),
        float_quality=trained.float_quality, evaluated=evaluated, size_bytes=final.size_bytes,
        integer_layers=None if built is None else _on_integers(built.audit),
        engine=None if built is None else f"{folder.name}/{ENGINE}", folder=folder.name, notes=tuple(notes),
        front=tuple(FrontPoint(cost=m.cost, quality=m.quality, widths=tuple((int(w), int(a)) for w, a in m.bits))
                    for m in found.front),
    )  # fmt: skip
    write_text(folder / DEVICE, result.model_dump_json(indent=1) + "\n")
    if built is not None:
        built.audit.require()
    if remarks:
        raise VerificationError(f"{choice.profile.id}: the plan is not legal there: {remarks[0]}")
    return result


def _on_integers(audited: Audit) -> int:
    """Layers that executed in an integer precision, whatever its width."""
    floats = {FloatPrecision.FP32, FloatPrecision.BF16, UNKNOWN}
    return sum(count for precision, count in audited.executed.items() if precision not in floats)


def _integers(trained: Trained, choice: DeviceChoice, found: DeviceFound, precision: str) -> CompressedModel:
    known = {runtime.value for runtime in Runtime}
    placement = default_placement(Runtime(choice.runtime)) if choice.runtime in known else Placement.INPUTS
    target = Target(
        trained.loaded.architecture, choice.profile.id, choice.runtime, precision, placement,
        unsigned=choice.unsigned, reduce_range=choice.reduce_range,
    )  # fmt: skip
    model = trained.subnets.export(found.chosen.configuration, target)
    if not choice.in_float:
        return model
    plan = model.plan.with_float(set(choice.in_float), "no integer rule in the profile")
    return restricted(model, plan, model.graph)


def _builds_here(choice: DeviceChoice) -> bool:
    """Whether the runtime is installed, and builds for this processor or for any."""
    if choice.runtime not in {r.value for r in Runtime} or not installed_runtimes().get(choice.runtime):
        return False
    return Runtime(choice.runtime).builds_anywhere or choice.profile.arch.isa == platform.machine()


def _write(trained: Trained, choice: DeviceChoice, model: CompressedModel, folder: Path) -> Built | None:
    """The engine and its audit where it can be built; else plan, integers and the exported file, checked as a file."""
    if not _builds_here(choice):
        model.plan.save(folder / PLAN)
        model.save(folder / MODEL)
        floats = {r.value for r in FLOAT_BIASES}
        export_for(choice.runtime, model, trained.example, folder / ONNX, quantize_bias=choice.runtime not in floats)
        return None
    request = trained.request
    asked = CompressRequest.model_validate(
        {
            "checkpoint": request.checkpoint, "device": choice.profile.id, "data": request.data, "out": folder,
            "runtime": choice.runtime, "model": request.model, "scale": request.scale, "seed": request.seed,
        }
    )  # fmt: skip
    with RunFolder.open(asked, resume=True) as run:
        save_graph(model.graph, run.path / BALANCED)
        job = Job(
            asked, run, trained.loaded, choice.profile, Runtime(choice.runtime), trained.original, model.graph,
            model.graph, trained.example,
        )  # fmt: skip
        built = build_audited(job, model, folder)
        run.finish_stage("engine", [PLAN, MODEL, ONNX], {"without_kernel": list(built.without_kernel)})
    return built


def _evaluated(trained: Trained, model: CompressedModel, engine: Engine | None) -> tuple[float | None, float | None]:
    """Quality on --eval of the engine, or in torch where none runs here; and the engine's on the held-out pictures."""
    predict = model.simulate() if engine is None else engine_predict(engine)
    held_out = None if engine is None else trained.subnets.evaluate(predict)
    if trained.request.eval_data is None:
        return None, held_out
    workload = trained.loaded.workload
    return evaluator(workload, workload.samples(trained.request.eval_data))(predict), held_out


def _runtime(profile: DeviceProfile) -> str:
    """The runtime that an engine can be built for here, or the first of the profile."""
    try:
        return choose_runtime(profile, None).value
    except UsageError:
        return profile.runtimes[0].engine.value


def _float_precision(choice: DeviceChoice) -> str:
    if choice.runtime in {r.value for r in Runtime}:
        return float_precision(choice.profile, Runtime(choice.runtime)).value
    return "fp32"
