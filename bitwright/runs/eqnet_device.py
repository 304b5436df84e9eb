"""What one device gets of a supernet: the search, checked by the time of the engine, and a description of it all."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from bitwright.foundation.errors import ConstraintError, UsageError, VerificationError
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from bitwright.runs.built import ENGINE
from bitwright.runs.eqnet_engine import Deployed, Network, deploy
from bitwright.runs.eqnet_request import EqnetRequest
from bitwright.runs.eqnet_result import DevicePlan, EngineLatency, FrontPoint
from bitwright.runs.float_part import float_precision
from bitwright.runs.job import default_placement
from bitwright.runs.runtime_choice import choose_runtime
from compress.compressed import CompressedModel
from compress.layer_table import LayerTable
from compress.plan import Placement
from deploy.audit import UNKNOWN, Audit
from deploy.engine import FloatPrecision, Runtime
from deploy.verify import engine_predict
from hw_profiles import DeviceProfile, load_profile
from search.eqnet.accounting import MILLISECONDS, Accounting, LayerCosts
from search.eqnet.device_search import DeviceFound, DeviceSearchSettings, search_device
from search.eqnet.devices import DeviceChoice, device_choice, device_cost, illegal_layers
from search.eqnet.export import Target
from search.eqnet.genes import GeneMap
from search.eqnet.genetic import GeneticSettings, check_reachable
from search.eqnet.predictor import Predictor
from search.eqnet.quality import Measure, Metric
from search.eqnet.repair import Limit
from search.eqnet.samples import Scored
from search.eqnet.space import Configuration, ElasticSpace
from search.eqnet.subnets import Subnets
from search.layer_sensitivity import evaluator, restricted

DEVICE = "device.json"
ATTEMPTS = 3
"""Searches for a device at most: each after the first with costs that the engine before it has corrected."""
TOLERANCE = 0.05
"""Share by which a measured latency may exceed its budget."""


@dataclass(frozen=True)
class Trained:
    """A trained supernet with all that devices are searched with. `measure`: what a search maximises."""

    network: Network
    table: LayerTable
    choices: tuple[DeviceChoice, ...]
    measure: Measure
    subnets: Subnets
    float_quality: float
    label: str

    def scored(self, configuration: Configuration) -> Scored:
        """What a search maximises, of a subnet, with the task's other metrics."""
        with self.subnets.network(configuration) as predict:
            return self.measure(predict)

    def quality(self, configuration: Configuration) -> float:
        """The same by itself."""
        return self.scored(configuration).value


def choice_for(request: EqnetRequest, device: str, table: LayerTable, space: ElasticSpace) -> DeviceChoice:
    """The runtime of a device and what it executes of this network.

    UsageError where that is no member of `space`, ConstraintError where no member is as small as was asked for.
    """
    profile = load_profile(device)
    choice = device_choice(profile, _runtime(profile), table, space, native_only=not request.emulated)
    try:
        check_reachable(GeneMap(space, choice.allowed), _limits(request, choice, table, space))
    except ConstraintError as error:
        raise ConstraintError(f"{device}: {error}; give a larger --budget-size") from error
    return choice


def _limits(request: EqnetRequest, choice: DeviceChoice, table: LayerTable, space: ElasticSpace) -> tuple[Limit, ...]:
    """What the network may be at most, whatever it costs on the device."""
    if request.budget_size is None:
        return ()
    in_float = [space.names.index(name) for name in choice.in_float]
    return (Limit.of(Accounting.of(table, space).size(in_float), request.budget_size),)


def device_plan(
    trained: Trained, choice: DeviceChoice, predictor: Predictor | None, metric: Metric, folder: Path
) -> DevicePlan:
    """Search, export, build, time and describe; what was done before is read again.

    `metric`: the task's metric that a quality of the predictor stands for.
    ConstraintError where the engine was timed and no member keeps the budget; VerificationError for layers that did not
    execute as planned or are not legal there. A device that failed is no device that was done before.
    """
    if (folder / DEVICE).is_file():
        note(f"{choice.profile.id}: done before")
        return DevicePlan.model_validate_json((folder / DEVICE).read_bytes())
    network, space = trained.network, trained.subnets.supernet.space
    precision = _float_precision(choice)
    cost = device_cost(choice, trained.table, space, trained.subnets.supernet.template, precision)
    found, cost, deployed = _deployed(trained, choice, predictor, metric, cost, folder)
    if deployed.built is not None:
        deployed.built.audit.require()
    illegal = illegal_layers(deployed.model.plan, choice.profile, trained.table)
    if illegal:
        raise VerificationError(f"{choice.profile.id}: the plan is not legal there: {illegal[0]}")
    evaluated, engine_quality = _evaluated(trained, deployed)
    notes: list[str] = []
    if engine_quality is not None:
        notes.append(f"on the engine: {engine_quality:.3f} {network.loaded.workload.unit} on held-out pictures")
    if deployed.why_not_here is not None:
        notes.append(f"the engine was built and audited, but not run: {deployed.why_not_here}")
    built, final = deployed.built, deployed.model
    quality = trained.subnets.evaluate(final.simulate())
    if predictor is None or not choice.has_choice:
        # Nothing was predicted: the one member was evaluated.
        metric = Metric([found.chosen.true], [quality])
    if built is not None and built.without_kernel:
        notes.append(f"without integer kernel, left in float: {', '.join(built.without_kernel)}")
    result = DevicePlan(
        device=choice.profile.id, runtime=choice.runtime, form=choice.form.name, label=trained.label,
        widths={n: (c.weight_bits, c.activation_bits)
                for n, c in zip(space.names, found.chosen.configuration.layers, strict=True)},
        runs_as=choice.runs_as, in_float=choice.in_float, cost=found.cost, unit=cost.unit,
        cost_source=f"{cost.source}, input of {trained.table.input_shape[2]}x{trained.table.input_shape[3]}",
        latency=None if deployed.timed is None else EngineLatency.of(deployed.timed),
        predicted=metric(found.chosen.predicted), quality=quality,
        float_quality=trained.float_quality, evaluated=evaluated, size_bytes=final.size_bytes,
        integer_layers=None if built is None else _on_integers(built.audit),
        engine=None if built is None else f"{folder.name}/{ENGINE}", folder=folder.name, notes=tuple(notes),
        front=tuple(
            FrontPoint(cost=m.cost, quality=metric(m.quality), searched=m.quality,
                       widths=tuple((int(w), int(a)) for w, a in m.bits))
            for m in found.front
        ),
    )  # fmt: skip
    write_text(folder / DEVICE, result.model_dump_json(indent=1) + "\n")
    return result


def _deployed(
    trained: Trained, choice: DeviceChoice, predictor: Predictor | None, metric: Metric, cost: LayerCosts, folder: Path
) -> tuple[DeviceFound, LayerCosts, Deployed]:
    """The search, the costs that it was made with, and what came of it.

    It is made again with corrected costs while the engine is not as predicted; of the members whose engine keeps the
    budget, the one of the best true quality is returned.
    """
    request, space, device = trained.network.request, trained.subnets.supernet.space, choice.profile.id
    predicts = cost.unit == MILLISECONDS
    budget, other = (request.budget, request.budget_bitops)[:: 1 if predicts else -1]
    if budget is None and other is not None:
        wanted = "--budget" if predicts else "--budget-bitops"
        note(f"{device}: its cost is in {cost.unit} and no budget is given in it ({wanted}); searched without one")
    settings = DeviceSearchSettings(
        budget=budget, limits=_limits(request, choice, trained.table, space), candidates=request.candidates,
        seed=request.seed,
        genetic=GeneticSettings(generations=request.generations, seed=request.seed),
    )  # fmt: skip
    best: tuple[DeviceFound, LayerCosts, Deployed] | None = None
    held, says = folder.with_name(f"{folder.name}-held"), ""
    for path in (folder, held):
        shutil.rmtree(path, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(ATTEMPTS):
        try:
            found = search_device(
                choice, space, cost, predictor if choice.has_choice else None, trained.quality, settings, metric
            )
        except ConstraintError:
            # Costs that an engine has corrected may leave no member; one that kept the budget is still there.
            if best is None:
                raise
            break
        folder.mkdir()
        deployed = deploy(trained.network, choice, _integers(trained, choice, found), folder)
        if budget is None or deployed.timed is None or not predicts:
            return found, cost, deployed
        measured = EngineLatency.of(deployed.timed).median_ms
        kept, near = measured <= budget * (1 + TOLERANCE), abs(measured / found.cost - 1) <= TOLERANCE
        says = f"the engine takes {measured:.4g} ms"
        better = kept and (best is None or found.chosen.true >= best[0].chosen.true)
        if better:
            best = found, cost, deployed
        _keep(folder, held, better)
        if (kept and near) or not choice.has_choice:
            break
        note(f"{device}: {says}, predicted were {found.cost:.4g}; the budget is {budget:g}")
        cost = cost.scaled(measured / found.cost, "corrected by the time of an engine")
    if best is None:
        raise ConstraintError(
            f"{device}: no plan keeps the budget of {budget:g} ms: {says} as measured here; give a larger --budget"
        )
    held.rename(folder)
    return best


def _keep(folder: Path, held: Path, better: bool) -> None:
    """Clear `folder` for another attempt: its files become the held ones where they are better, and go otherwise."""
    if better:
        shutil.rmtree(held, ignore_errors=True)
        folder.rename(held)
    else:
        shutil.rmtree(folder)


def _on_integers(audited: Audit) -> int:
    """Layers that executed in an integer precision, whatever its width."""
    floats = {*FloatPrecision, UNKNOWN}
    return sum(count for precision, count in audited.executed.items() if precision not in floats)


def _integers(trained: Trained, choice: DeviceChoice, found: DeviceFound) -> CompressedModel:
    known = {runtime.value for runtime in Runtime}
    placement = default_placement(Runtime(choice.runtime)) if choice.runtime in known else Placement.INPUTS
    target = Target(
        trained.network.loaded.architecture, choice.profile.id, choice.runtime, _float_precision(choice), placement,
        unsigned=choice.unsigned, reduce_range=choice.reduce_range,
    )  # fmt: skip
    model = trained.subnets.export(found.chosen.configuration, target)
    if not choice.in_float:
        return model
    plan = model.plan.with_float(set(choice.in_float), "no integer rule in the profile")
    return restricted(model, plan, model.graph)


def _evaluated(trained: Trained, deployed: Deployed) -> tuple[float | None, float | None]:
    """Quality on --eval of the engine, or in torch where none runs here; and the engine's on the held-out pictures."""
    engine, request = deployed.engine, trained.network.request
    predict = deployed.model.simulate() if engine is None else engine_predict(engine)
    held_out = None if engine is None else trained.subnets.evaluate(predict)
    if request.eval_data is None:
        return None, held_out
    workload = trained.network.loaded.workload
    return evaluator(workload, workload.samples(request.eval_data))(predict), held_out


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
