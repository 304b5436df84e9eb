"""Measuring a device's latency table: checkpoints and the grid, under plans that bring out every kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitwright.foundation.errors import DeviceError, UsageError
from bitwright.foundation.files import sha256_file
from bitwright.foundation.progress import note, track
from bitwright.runs.float_part import float_precision
from bitwright.runs.job import default_placement
from bitwright.runs.profile_summary import ProfileRequest, ProfileSummary
from bitwright.runs.rules import integer_rule, layer_plan
from bitwright.runs.runtime_choice import choose_runtime
from compress.layer_table import LayerTable
from compress.plan import LayerPlan, Plan
from deploy.engine import FloatPrecision, Runtime
from deploy.engines.runtime_packages import runtime_version
from deploy.environment import Environment
from deploy.profiling import (
    Circumstances,
    Session,
    Subject,
    grid_mixed,
    grid_names,
    grid_plans,
    grid_sizes,
    grid_subject,
    profiling_plans,
)
from hw_profiles import DeviceProfile, load_profile, why_foreign
from hw_profiles.latency_table import LatencyTable, NetworkRow
from workloads.loading import load_checkpoint

DEFAULT_SIZES = ((64, 64), (128, 128))
"""Heights and widths that checkpoints are profiled at; the grid has sizes of its own."""

_MIXED = (0, 1)
_NETWORK_SECONDS = 15.0
_PLAN_SECONDS = 6.0
_ENGINE_SECONDS = 8.0
"""What a network, an export and an engine take beside the timed seconds: capturing, compiling, warming up."""


@dataclass(frozen=True)
class Target:
    """A network to profile under the name that it has in the table; no checkpoint: one of the grid."""

    name: str
    checkpoint: Path | None
    sizes: tuple[tuple[int, int], ...]

    @property
    def mixed(self) -> tuple[int, ...]:
        """Seeds of its randomly mixed plans."""
        return grid_mixed(self.name) if self.checkpoint is None else _MIXED

    def wanted(self, plans: Sequence[str]) -> tuple[str, ...]:
        """Which of the plans it is measured under."""
        return grid_plans(self.name, plans) if self.checkpoint is None else tuple(plans)


@dataclass(frozen=True)
class Bench:
    """A request with everything that it names opened and checked."""

    request: ProfileRequest
    session: Session
    profile: DeviceProfile
    runtime: Runtime
    targets: tuple[Target, ...]

    @staticmethod
    def open(request: ProfileRequest) -> Bench:
        """Raises UsageError for a missing checkpoint, an unknown device or runtime, or a damaged table, and DeviceError
        for a processor of another architecture.
        """
        profile = load_profile(request.device)
        runtime = choose_runtime(profile, request.runtime)
        runtime.require_timed()
        if (foreign := why_foreign(profile)) is not None:
            raise DeviceError(f"a latency table holds what the device takes: {foreign}; run `bitwright profile` there")
        if not runtime.tells_node_times:
            raise UsageError(f"{runtime} tells no time for each kernel, so {profile.id} has no latency table to fill")
        if not request.checkpoints and not request.grid:
            raise UsageError("nothing to measure: give a checkpoint, or --grid")
        for checkpoint in request.checkpoints:
            if not checkpoint.is_file():
                raise UsageError(f"checkpoint {checkpoint} does not exist")
        where = Circumstances(
            profile=profile.id,
            runtime=runtime.value,
            runtime_version=runtime_version(runtime),
            threads=request.threads,
            fingerprint=Environment.record().fingerprint,
        )
        table = LatencyTable.load(request.out) if request.out.exists() else LatencyTable()
        sizes = request.sizes or DEFAULT_SIZES
        targets = [Target(f"{path.stem}-{sha256_file(path)[:8]}", path, sizes) for path in request.checkpoints]
        targets += [Target(name, None, request.sizes or grid_sizes(name)) for name in grid_names() if request.grid]
        return Bench(
            request,
            Session(table, request.out, where, request.seconds, request.redo_noisy),
            profile,
            runtime,
            tuple(targets),
        )

    @property
    def floats(self) -> tuple[FloatPrecision, ...]:
        """The float precisions that the runtime executes natively, the fastest first."""
        return tuple(dict.fromkeys((float_precision(self.profile, self.runtime), FloatPrecision.FP32)))

    def plans(self, integer: dict[str, LayerPlan], layers: tuple[str, ...], target: Target) -> dict[str, Plan]:
        """The plans that a network is profiled under; `integer`: formats of the layers with integer kernels."""
        plans = profiling_plans(
            layers,
            architecture=target.name,
            device=self.profile.id,
            runtime=self.runtime.value,
            integer=integer,
            floats=self.floats,
            placement=default_placement(self.runtime),
            mixed=target.mixed,
        )
        return {name: plans[name] for name in target.wanted(tuple(plans))}

    def missing(self, target: Target) -> list[tuple[str, tuple[int, int]]]:
        """Plan and size of what the table lacks of a target, told from names alone, so without loading it."""
        pretend = dict.fromkeys(("first", "second"), LayerPlan())
        plans = self.plans(pretend, tuple(pretend), target)
        return [(p, s) for p in plans for s in target.sizes if not self.session.measured_at(target.name, p, s)]


def preview(request: ProfileRequest) -> ProfileSummary:
    """What a session would measure, and about how long that would take; nothing is loaded or measured."""
    bench = Bench.open(request)
    left, seconds = 0, 0.0
    for target in bench.targets:
        missing = bench.missing(target)
        left += len(missing)
        seconds += _NETWORK_SECONDS * bool(missing) + _PLAN_SECONDS * len({plan for plan, _ in missing})
        seconds += len(missing) * (_ENGINE_SECONDS + request.seconds)
    return _summary(bench, []).model_copy(update={"left": left, "minutes": seconds / 60})


def profile(request: ProfileRequest) -> ProfileSummary:
    """Measure what the table `out` lacks; each engine is on the disk before the next one is measured."""
    bench = Bench.open(request)
    warning = bench.session.table.foreign_warning(bench.session.where.fingerprint)
    if warning:
        note(warning)
    waiting = {target.name: missing for target in bench.targets if (missing := bench.missing(target))}
    steps = (row for target in bench.targets if target.name in waiting for row in _measure(bench, target))
    rows = list(track(steps, "profiling engines", sum(map(len, waiting.values()))))
    return _summary(bench, rows)


def _measure(bench: Bench, target: Target) -> Iterator[NetworkRow]:
    subject, sizes = _load(bench.request, target)
    channels = subject.example.shape[1]
    table = LayerTable.from_graph(subject.graph, subject.example)
    rules = {row.name: integer_rule(bench.profile, row.op, bench.runtime) for row in table.rows}
    integer = {name: layer_plan(rule) for name, rule in rules.items() if rule is not None}
    plans = bench.plans(integer, subject.layers, target)
    for row in bench.session.profile(subject, plans, [(1, channels, *size) for size in sizes]):
        noise = ", while others kept the machine busy" if row.noisy else ""
        note(f"{row.source}: {row.ms.p50:.2f} ms, kernels add up to {row.kernels_share:.2f} of it{noise}")
        yield row


def _load(request: ProfileRequest, target: Target) -> tuple[Subject, tuple[tuple[int, int], ...]]:
    """The network, and the sizes asked for as far as it takes them; a classifier takes one only."""
    if target.checkpoint is None:
        return grid_subject(target.name), target.sizes
    loaded = load_checkpoint(target.checkpoint, model=request.model, scale=request.scale)
    least = loaded.workload.min_input_side
    fixed = loaded.workload.takes_one_size
    subject = Subject.of(target.name, loaded.architecture, loaded.module, loaded.workload.traced_at(), one_size=fixed)
    taken = [(least, least) if fixed else (max(height, least), max(width, least)) for height, width in target.sizes]
    return subject, tuple(dict.fromkeys(taken))


def _summary(bench: Bench, rows: list[NetworkRow]) -> ProfileSummary:
    table, where = bench.session.table, bench.session.where
    share: dict[str, tuple[float, float]] = {}
    for row in rows:
        low, high = share.get(row.network, (row.kernels_share, row.kernels_share))
        share[row.network] = (min(low, row.kernels_share), max(high, row.kernels_share))
    here = [row for row in table.networks if row.fingerprint == where.fingerprint]
    return ProfileSummary(
        out=str(bench.request.out),
        device=where.profile,
        runtime=where.runtime,
        threads=where.threads,
        networks=tuple(target.name for target in bench.targets),
        measured=len(rows),
        present=len(here),
        kernels=len({row.kernel.key for row in table.kernels}),
        share=share,
        noisy=sum(row.noisy for row in rows),
        warning=table.foreign_warning(where.fingerprint),
    )
