"""The search without training: sensitivities, scale of the metric, exact sweep; and again from measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, fx

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note, track
from compress.compressed import CompressedModel
from hw_profiles import DeviceProfile
from search.layer_sensitivity import Evaluate
from search.sensitivity.additivity import random_assignments
from search.sensitivity.cost import PlanCost, SeparableCost, bits_of
from search.sensitivity.front import Front, FrontPoint, solve_front
from search.sensitivity.groups import groups, partition, ties
from search.sensitivity.measure import all_options, measure
from search.sensitivity.precision import Alternatives, Assignment, is_float
from search.sensitivity.proxy import proxy_errors, screen
from search.sensitivity.quality import QualityModel
from search.sensitivity.refit import Measured, refit_cost, refit_quality
from search.sensitivity.sensitivities import EXACT, Option, OptionError, Sensitivities
from search.sensitivity.variants import Variant

PROBED = 8
"""Crops of the proxy: a backward pass each."""


@dataclass(frozen=True)
class SearchSettings:
    """What is spent. `budgets`: ms, or how many points. `measured_share`: share of the predicted error to measure.

    `anchors`: plans whose quality is evaluated, to scale errors to the metric; the first one quantises everything.
    `groups`: also measure groups in place.
    """

    budgets: int | Sequence[float] = 24
    measured_share: float = 1.0
    anchors: int = 3
    groups: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """UsageError names the first field out of range."""
        if not 0.0 < self.measured_share <= 1.0 or self.anchors < 0:
            raise UsageError("the search needs a measured_share in (0, 1] and no fewer than 0 anchors")


def native_precisions(
    profile: DeviceProfile, runtime: str, alternatives: Alternatives, ops: Mapping[str, str]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """By float precision, what the device executes each layer in natively; integers before the float.

    `ops`: operator of each layer (`LayerTable`). A layer without a native integer rule has only the float one.
    """
    allowed: dict[str, dict[str, tuple[str, ...]]] = {}
    native = {r.executes_as.value for r in profile.rules(runtime) if r.native and r.weight is None and r.act is None}
    for float_precision in sorted(p for p in native if is_float(p)):
        allowed[float_precision] = {
            name: (
                *(
                    p
                    for p in alternatives.integer_precisions(name)
                    if profile.resolve(ops[name], *bits_of(p), runtime, native_only=True) is not None
                ),
                float_precision,
            )
            for name in alternatives.layers
        }
    if not allowed:
        raise UsageError(f"{profile.id} executes no float precision natively with {runtime}")
    return allowed


def sensitivities_of(
    alternatives: Alternatives, calibration: Tensor, options: Sequence[Option], settings: SearchSettings
) -> Sensitivities:
    """Measured sensitivities of the options that the proxy deems worth it, predicted ones of the others."""
    proxies = proxy_errors(alternatives, calibration[:PROBED], options)
    chosen = screen(proxies, settings.measured_share) if settings.measured_share < 1.0 else tuple(options)
    together = groups(alternatives.float_graph) if settings.groups else ()
    found = measure(alternatives, calibration, chosen, together)
    known = found.errors
    ratios = {p: _median([known[o] / proxies[o] for o in chosen if o[1] == p and proxies[o] > 0.0]) for _, p in options}
    rest = [o for o in options if o not in known]
    count = len(chosen)
    rows = [[*row, *[0.0] * len(rest)] for row in found.interactions]
    guesses = [proxies[o] * ratios[o[1]] for o in rest]
    rows += [[guess if count + i == j else 0.0 for j in range(count + len(rest))] for i, guess in enumerate(guesses)]
    measured = [o.model_copy(update={"proxy": proxies[o.layer, o.precision]}) for o in found.options]
    predicted = [
        OptionError(layer=n, precision=p, error=guess, proxy=proxies[n, p], measured=False)
        for (n, p), guess in zip(rest, guesses, strict=True)
    ]
    return found.model_copy(
        update={"options": (*measured, *predicted), "interactions": tuple(tuple(row) for row in rows)}
    )


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 1.0


def sensitivity_front(
    model: CompressedModel | Alternatives,
    float_graph: fx.GraphModule,
    calibration: Tensor,
    evaluate: Evaluate | None,
    cost: PlanCost,
    *,
    source: str,
    allowed: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    settings: SearchSettings | None = None,
    known: Sensitivities | None = None,
    on_sensitivities: Callable[[Sensitivities], None] | None = None,
) -> Front:
    """A front of plans, predicted. Deterministic in its arguments.

    `float_graph`: what `model` was quantised from, weights unrounded. `calibration`: [N, C, H, W]. `evaluate`: the
    metric on held-out samples; None leaves drops in units of mean squared output error. `source` labels the cost.
    `allowed`: `native_precisions`; by default the model's integers with fp32. `known`: sensitivities of an earlier
    call, which are not measured again; `on_sensitivities` receives new ones, to be saved.
    """
    settings = settings or SearchSettings()
    alternatives = model if isinstance(model, Alternatives) else Alternatives.of(model, float_graph)
    if allowed is None:
        allowed = {EXACT: {n: (*alternatives.integer_precisions(n), EXACT) for n in alternatives.layers}}
    separable = SeparableCost.of(cost, source)
    for precisions in allowed.values():
        separable.check(precisions)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    wanted = {(n, p) for precisions in allowed.values() for n, row in precisions.items() for p in row if p != EXACT}
    if known is None:
        options = [o for o in all_options(alternatives, list(allowed)) if o in wanted]
        known = sensitivities_of(alternatives, calibration, options, settings)
        if on_sensitivities is not None:
            on_sensitivities(known)
    if missing := sorted(wanted - known.errors.keys()):
        raise UsageError(f"the saved sensitivities say nothing of {missing[0][0]} in {missing[0][1]}; measure again")
    seconds["sensitivities"] = time.perf_counter() - started
    started = time.perf_counter()
    shared = [group.layers for group in ties(alternatives.float_graph)]
    quality, reference = QualityModel.of(known), None
    if evaluate is not None:
        quality, reference = _scaled(alternatives, quality, evaluate, allowed, settings, shared)
    seconds["metric"] = time.perf_counter() - started
    points, seconds["solving"], gap = solve_front(alternatives, allowed, separable, quality, shared, settings.budgets)
    note(f"{len(points)} plans on the predicted front, solved in {seconds['solving']:.1f} s")
    return Front(points, separable, quality, known, reference, seconds, gap)


def _scaled(
    alternatives: Alternatives,
    quality: QualityModel,
    evaluate: Evaluate,
    allowed: Mapping[str, Mapping[str, Sequence[str]]],
    settings: SearchSettings,
    shared: Sequence[Sequence[str]],
) -> tuple[QualityModel, float]:
    """The model in the metric's unit, from plans that are simulated, and the float network's quality."""
    graph = alternatives.float_graph
    reference = evaluate(graph)
    float_precision, precisions = next(iter(allowed.items()))
    plans: list[Assignment] = [{name: row[0] for name, row in precisions.items()}]
    plans += random_assignments(precisions, settings.anchors - 1, settings.seed, shared)
    drops = []
    for assignment in track(plans[: settings.anchors], "scaling errors to the metric"):
        variant = Variant.of(alternatives, alternatives.plan(assignment, float_precision))
        drops.append((assignment, reference - evaluate(partial(variant.predict, graph))))
    return quality.scaled(drops), reference


def refit_front(
    front: Front,
    model: CompressedModel | Alternatives,
    float_graph: fx.GraphModule,
    measured: Sequence[FrontPoint],
    *,
    allowed: Mapping[str, Mapping[str, Sequence[str]]],
    budgets: int | Sequence[float] = 24,
) -> Front:
    """The front solved again with both models corrected by `measured` points; those that stay keep their measurements.

    `measured_quality` counts only where the front knows the float network's quality. Always give all points measured so
    far, and the front that was predicted first: corrections do not add up.
    """
    alternatives = model if isinstance(model, Alternatives) else Alternatives.of(model, float_graph)
    blocks = partition(alternatives.float_graph)
    reference = front.reference_quality
    seen = [
        Measured(
            point.assignment,
            point.measured_ms,
            None if reference is None or point.measured_quality is None else reference - point.measured_quality,
        )
        for point in measured
    ]
    cost, quality = refit_cost(front.cost, blocks, seen), refit_quality(front.quality, blocks, seen)
    shared = [group.layers for group in ties(alternatives.float_graph)]
    points, seconds, gap = solve_front(alternatives, allowed, cost, quality, shared, budgets)
    by_plan = {tuple(point.assignment.items()): point for point in measured}
    kept = []
    for point in points:
        old = by_plan.get(tuple(point.assignment.items()))
        kept.append(point if old is None else point.measured(old.measured_ms, old.measured_quality))
    return replace(
        front, points=tuple(kept), cost=cost, quality=quality, seconds={**front.seconds, "refit": seconds},
        largest_gap=gap,
    )  # fmt: skip
