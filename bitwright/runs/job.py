"""A job: the request with everything it names loaded and checked, before any work is done."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor, fx

from bitwright.foundation.errors import DeviceError, UsageError
from bitwright.runs.float_part import float_precision
from bitwright.runs.folder import RunFolder
from bitwright.runs.mask_rules import kept_dense
from bitwright.runs.request import AUTO, CompressRequest
from bitwright.runs.rules import integer_rule, layer_plan, rule_of
from bitwright.runs.runtime_choice import choose_runtime
from compress.equality import prove_equal
from compress.graph import capture, layer_nodes, load_graph
from compress.layer_table import LayerTable
from compress.narrowing import cut_channels
from compress.nm_pattern import Sparsity
from compress.plan import LayerPlan, Placement, Plan
from compress.preparation import prepare
from compress.sparsity import Decision, decide
from deploy.engine import Runtime
from hw_profiles import DeviceProfile, load_profile, why_foreign
from hw_profiles.resources import Via
from hw_profiles.sparsity_support import reads_groups
from search.layer_sensitivity import Evaluate, evaluator
from workloads.classification.task import Classification
from workloads.loading import load_checkpoint
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.task import SuperResolution
from workloads.workload import LoadedModel, Sample

BALANCED = "work/balanced.safetensors"
FIRST_STAGE, NARROWED = "float", "narrowed"
DENSE, SPARSE = "work/dense.safetensors", "work/sparse.safetensors"
NARROW, KEPT = "work/narrow.safetensors", "work/narrow.json"
SENSITIVITY_SAMPLES = 4
PROBE_SIZE = (61, 53)
"""An odd input size on which graph transforms are proven."""


@dataclass
class Job:
    """What all stages share. `given` is the float network after function-preserving transforms; `graph` is the one that
    is compressed: the same, or with fewer channels.
    """

    request: CompressRequest
    run: RunFolder
    loaded: LoadedModel
    profile: DeviceProfile
    runtime: Runtime
    original: fx.GraphModule
    given: fx.GraphModule
    graph: fx.GraphModule
    example: Tensor
    warnings: list[str] = field(default_factory=list)

    @staticmethod
    def open(request: CompressRequest, run: RunFolder) -> Job:
        """Load the checkpoint and the profile, choose the runtime, capture the network and prove its transforms."""
        profile = load_profile(request.device)
        # A run that goes on where other runtimes are installed keeps the one that its plan was made for.
        started = run.journal.entry(FIRST_STAGE)
        recorded = None if started is None else started.values.get("runtime")
        wanted = request.runtime or (recorded if isinstance(recorded, str) else None)
        runtime = choose_runtime(profile, wanted, request.precision)
        loaded = load_checkpoint(request.checkpoint, model=request.model, scale=request.scale)
        if request.self_distillation and not isinstance(loaded.workload, Classification):
            raise UsageError("self_distillation softens labels of classes; leave it out, this network makes pictures")
        example = loaded.workload.traced_at()
        original = capture(loaded.module, example, one_size=loaded.workload.takes_one_size)
        graph = prepare(original)
        least = loaded.workload.min_input_side
        probe = loaded.workload.example_input(*(max(least, s) for s in PROBE_SIZE))
        prove_equal(original, graph, example if loaded.workload.takes_one_size else probe)
        job = Job(request, run, loaded, profile, runtime, original, graph, graph, example)
        if run.stage_done(NARROWED) and not run.values(NARROWED)["skipped"]:
            job.become(load_graph(cut_channels(graph, json.loads((run.path / KEPT).read_bytes())), run.path / NARROW))
        return job

    def become(self, graph: fx.GraphModule) -> None:
        """From now on compress this network, which has fewer channels."""
        self.graph = graph
        for known in ("table", "prunable"):
            self.__dict__.pop(known, None)

    @property
    def why_foreign(self) -> str | None:
        """Why kernels and times of this machine are not those of the device, in words; None where they are."""
        return why_foreign(self.profile)

    @property
    def why_not_timed(self) -> str | None:
        """Why a time that is taken here would say nothing of the device, in words."""
        return self.runtime.why_not_timed or self.why_foreign

    def require_timed(self) -> None:
        """UsageError where engines of the runtime are not to be timed, DeviceError where only the device can."""
        self.runtime.require_timed()
        if self.why_foreign is not None:
            raise DeviceError(f"{self.why_foreign}: times taken here would say nothing of it; {self.there_or_by_hand}")

    @property
    def there_or_by_hand(self) -> str:
        """How to measure the run's engine on another machine, in words."""
        return f"measure there, with `{self.measure_there}` or `bitwright bundle {self.run.path} --out FILE`"

    @property
    def measure_there(self) -> str:
        """The command that measures the run's engine on another machine, which is the device."""
        via = self.profile.measure.via or Via.SSH
        return f"bitwright measure {self.run.path} --on {via.address or Via.SSH.address}"

    @property
    def narrower(self) -> bool:
        """Whether channels were removed."""
        return self.graph is not self.given

    @cached_property
    def input_size(self) -> tuple[int, int]:
        """Height and width that latency and BitOps are stated at; a classifier's own input size."""
        return self.sized(self.request.input_size)

    @property
    def picture_format(self) -> SRFormat | None:
        """What a super-resolution network takes and gives; None for another task."""
        workload = self.loaded.workload
        return workload.io if isinstance(workload, SuperResolution) else None

    def sized(self, size: tuple[int, int]) -> tuple[int, int]:
        """A height and width that the network takes, as close to `size` as it allows."""
        least = self.loaded.workload.min_input_side
        if isinstance(self.loaded.workload, Classification):
            return least, least
        return max(size[0], least), max(size[1], least)

    @cached_property
    def table(self) -> LayerTable:
        """Every layer at `input_size`."""
        return LayerTable.from_graph(self.graph, self.loaded.workload.example_input(*self.input_size))

    @cached_property
    def balanced(self) -> fx.GraphModule:
        """The float graph that was quantised, as the stage `nearest` left it: channels balanced, nothing rounded."""
        return load_graph(self.graph, self.run.path / BALANCED)

    @cached_property
    def teacher(self) -> fx.GraphModule:
        """The float graph whose outputs are the aim: `balanced`, or what it was before it was pruned."""
        return self.balanced if self.request.sparsity is None else load_graph(self.graph, self.run.path / DENSE)

    @property
    def sparsity(self) -> dict[str, Decision]:
        """What is decided for each layer call, in network order; empty where no sparsity was asked for.

        Where each layer gets a pattern of its own, `prunable` until the stage `sparse` has measured.
        """
        if self.request.sparsity not in AUTO or self.run.journal.entry("sparse") is None:
            return self.prunable
        chosen: dict[str, str | None] = self.run.values("sparse")["patterns"]
        return {name: _chosen(found, chosen.get(name)) for name, found in self.prunable.items()}

    @cached_property
    def prunable(self) -> dict[str, Decision]:
        """What each layer call can take of the pattern that was asked for; of 2:4 where it gets its own."""
        if self.request.sparsity is None:
            return {}
        asked = "2:4" if self.request.sparsity in AUTO else self.request.sparsity
        pattern = Sparsity.parse(asked)
        # Groups may be short where channels are filled up to a multiple of M, and where nothing reads groups.
        multiple = self.profile.channel_multiple("int8")
        fill = not reads_groups(self.runtime.value) or (multiple is not None and multiple % pattern.m == 0)
        fill = fill and self.request.sparsity not in AUTO
        dense = kept_dense(self.request.sparsity_except, [row.name for row in self.table.rows])
        decisions = decide(self.graph, self.table, pattern, dense=dense, fill=fill)
        for row in self.table.rows:
            rule = integer_rule(self.profile, row.op, self.runtime)
            if rule is not None and not _zero_is_zero(layer_plan(rule)):
                why = f"{self.runtime} has weights with a zero point there: pruned would not be the integer 0"
                decisions[row.name] = Decision(row.name, None, why)
        return decisions

    @cached_property
    def calibration(self) -> Tensor:
        """The calibration inputs, the same each time they are asked for."""
        request, workload = self.request, self.loaded.workload
        size = request.calibration_size
        if isinstance(workload, Classification):
            size = workload.min_input_side
        return workload.calibration(request.data, request.calibration_count, size, request.seed)

    @cached_property
    def held_out(self) -> Sequence[Sample]:
        """Samples of the data folder that choose between plans."""
        return self.loaded.workload.held_out(self.request.data)

    @cached_property
    def evaluate(self) -> Evaluate:
        """Mean quality on the held-out samples."""
        return evaluator(self.loaded.workload, self.held_out)

    @cached_property
    def evaluate_few(self) -> Evaluate:
        """Mean quality on the first held-out samples, for measurements that are repeated per layer."""
        return evaluator(self.loaded.workload, self.held_out[:SENSITIVITY_SAMPLES])

    @cached_property
    def eval_samples(self) -> Sequence[Sample]:
        """The samples that the report's quality is measured on: `eval_data`, else the held-out ones."""
        if self.request.eval_data is None:
            return self.held_out
        return self.loaded.workload.samples(self.request.eval_data)

    def check_data(self) -> None:
        """Read all samples once, so that a folder without a usable one is an error before any work is done."""
        for samples in (self.calibration, self.held_out, self.eval_samples):
            len(samples)

    def first_plan(self) -> Plan:
        """Every layer that the device executes natively in the precision asked for in it, the others in float."""
        layers, precision, uneven = {}, self.request.precision, ""
        for (name, _), row in zip(layer_nodes(self.graph), self.table.rows, strict=True):
            rule = rule_of(self.profile, row.op, self.runtime, precision)
            why = f"asked for in {precision}" if precision.is_float else f"no native {precision.kernel} in the profile"
            layer = layer_plan(rule) if rule else LayerPlan(reason=why)
            block = None if layer.weight is None else layer.weight.block
            if block is not None and row.input_shape[-1] % block:
                layer = LayerPlan(reason=f"blocks of {block} weights do not divide its {row.input_shape[-1]} inputs")
                uneven = uneven or f" ({name}: {layer.reason})"
            decided = self.sparsity.get(name)
            layers[name] = layer.model_copy(update={"sparsity": decided.pattern if decided else None})
        if not precision.is_float and not any(layer.quantized for layer in layers.values()):
            raise UsageError(
                f"{self.profile.id} executes no layer of this network {precision.computed} in {self.runtime}{uneven}; "
                "choose another --precision, --runtime or device (see: bitwright devices)"
            )
        floats = precision.value if precision.is_float else float_precision(self.profile, self.runtime).value
        placement = Placement(self.request.placement) if self.request.placement else default_placement(self.runtime)
        return Plan(
            architecture=self.loaded.architecture,
            device=self.profile.id,
            runtime=self.runtime.value,
            float_precision=floats,
            placement=placement,
            layers=layers,
        )

    @property
    def cores(self) -> int:
        """Threads for work that is not timed."""
        return os.cpu_count() or 1

    @property
    def float_onnx(self) -> Path:
        """The float network as it was given, for the baseline."""
        return self.run.path / "float" / "float.onnx"


def default_placement(runtime: Runtime) -> Placement:
    """Quantise what the runtime needs to pick integer kernels, and no more where the rest buys no time.

    LiteRT 2.3, RFDN x4 at 128x128 on a Zen 4 core that others used too: 52 ms of CPU time with everything quantised,
    and 58 ms with the inputs and outputs of layers, which was 0.01 dB better on Set5. Both were measured before its
    inexact operators were moved to float; with everything quantised it took 52 to 54 ms after that.
    """
    if runtime is Runtime.LITERT:
        return Placement.EVERYTHING
    return Placement.INPUTS_OUTPUTS if runtime is Runtime.ONNXRUNTIME else Placement.INPUTS


def _chosen(found: Decision, pattern: str | None) -> Decision:
    """A layer that may be pruned, with the pattern that its sensitivity has given it."""
    if found.pattern is None:
        return found
    if pattern is None:
        return Decision(found.layer, None, "kept dense: the budget is better spent on other layers")
    return Decision(found.layer, Sparsity.parse(pattern))


def _zero_is_zero(layer: LayerPlan) -> bool:
    return layer.weight is not None and layer.weight.symmetric and layer.weight.signed
