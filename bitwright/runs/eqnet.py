"""A run of EQ-Net: one supernet trained or continued, a predictor where devices leave a choice, a plan for each."""

from __future__ import annotations

from bitwright.foundation.errors import BitwrightError
from bitwright.foundation.files import write_json, write_text
from bitwright.foundation.progress import note
from bitwright.runs.eqnet_device import Trained, choice_for, device_plan
from bitwright.runs.eqnet_engine import Network
from bitwright.runs.eqnet_request import EqnetRequest
from bitwright.runs.eqnet_result import DevicePlan, EqnetResult
from bitwright.runs.lock import FolderLock
from bitwright.runs.search_folder import prepare_folder
from compress.graph import capture
from compress.layer_table import LayerTable
from compress.training.processes import Processes, processes
from search.eqnet.accounting import Accounting
from search.eqnet.norms import training_inputs
from search.eqnet.predictor import Agreement, Predictor, agreement, learning_curve
from search.eqnet.predictor_choice import load, train
from search.eqnet.quality import Measure, Metric
from search.eqnet.samples import Measured, Scored, collect
from search.eqnet.space import Configuration, ElasticSpace
from search.eqnet.subnets import Subnets
from search.eqnet.supernet import Supernet, trainable_graph
from search.eqnet.trainer import Trainer, values_digest
from search.layer_sensitivity import evaluator
from workloads.classification.task import Classification
from workloads.loading import load_checkpoint

STATE, SAMPLES, PREDICTOR, AGREEMENT, RESULT = (
    "supernet.safetensors", "samples.jsonl", "predictor.safetensors", "predictor.json", "result.json",
)  # fmt: skip
CURVE, CURVE_SIZES = "learning_curve.json", (250, 500, 1000, 2000, 4000)
CALIBRATION_SIDE = 64
MAY_CHANGE = frozenset({"devices"})
"""What a continuation may have otherwise: the supernet and the predictor know nothing of devices."""
LEFT_OUT = 0.2
"""Share of the samples that the predictor's agreement is told on, which neither trained it nor chose its epoch."""
LARGEST_DROP = 3.0
"""dB below the 8-bit subnet at which the quality of an image network stops counting."""


def search(request: EqnetRequest, *, resume: bool = False) -> EqnetResult:
    """Carry out a run, or continue one, which may be for other devices.

    Every process that `torchrun` started trains; the first one does the rest.
    UsageError for a folder that holds another run, or this one without `resume`.
    """
    request.check_inputs()
    with processes() as group:
        lock = FolderLock(request.out)
        try:
            if group.first:
                prepare_folder(request, request.out, resume=resume, may_change=MAY_CHANGE, lock=lock)
            trained = _trained(request, group)
            result = _deployed(trained) if group.first else _nothing(trained)
        finally:
            lock.release()
    return result


def _trained(request: EqnetRequest, group: Processes) -> Trained:
    """Load, make the space, train to the end or take the supernet that was."""
    loaded = load_checkpoint(request.checkpoint, model=request.model, scale=request.scale)
    workload, images = loaded.workload, not isinstance(loaded.workload, Classification)
    example = workload.traced_at()
    side = example.shape[2]
    original = capture(loaded.module, example, one_size=workload.takes_one_size)
    graph = trainable_graph(original)
    settings = request.training(images=images)
    size = max(CALIBRATION_SIDE, side) if images else side
    table = LayerTable.from_graph(graph, example)
    space = ElasticSpace.of(graph, request.widths(images=images), pinned=request.pinned)
    # Before the training: a device that executes none of its widths is told at once.
    choices = tuple(choice_for(request, device, table, space) for device in request.devices)
    inputs = workload.calibration(request.data, request.calibration_count, size, request.seed)
    supernet = Supernet(graph, space)
    supernet.fit(inputs[: min(len(inputs), 1024)])
    data = workload.training(request.data, settings.patch, settings.seed)
    trainer = Trainer(supernet, data, settings, group, images=images, path=request.out / STATE)
    trainer.run()
    held_out = tuple(workload.held_out(request.data))
    evaluate = evaluator(workload, held_out)
    measure = Measure(workload, held_out, original)
    seen = training_inputs(data, request.calibration_count) if supernet.has_norms else inputs
    return Trained(
        network=Network(request, loaded, original, example),
        table=table, choices=choices, measure=measure, subnets=Subnets(supernet, seen, evaluate),
        float_quality=evaluate(original) if group.first else 0.0, label=settings.label(images=images),
    )  # fmt: skip


def _deployed(trained: Trained) -> EqnetResult:
    request = trained.network.request
    predictor, told, metric = _predictor(trained)
    plans: list[DevicePlan] = []
    complaint: BitwrightError | None = None
    for choice in trained.choices:
        try:
            plans.append(device_plan(trained, choice, predictor, metric, request.out / "devices" / choice.profile.id))
        except BitwrightError as error:
            # The others are still wanted; what is wrong with this one is told at the end.
            note(f"{choice.profile.id}: {error}")
            complaint = complaint or error
    result = _result(trained, told, plans, None if predictor is None else predictor.KIND)
    write_text(request.out / RESULT, result.model_dump_json(indent=1) + "\n")
    if complaint is not None:
        raise complaint
    return result


def _nothing(trained: Trained) -> EqnetResult:
    """What the processes return that only trained."""
    return _result(trained, None, [])


def _result(trained: Trained, told: Agreement | None, plans: list[DevicePlan], kind: str | None = None) -> EqnetResult:
    request, workload = trained.network.request, trained.network.loaded.workload
    return EqnetResult(
        method=trained.label, steps=request.steps, metric=workload.metric, unit=workload.unit, predictor=told,
        predictor_kind=kind, searched_by=f"{trained.measure.name}, {trained.measure.unit}", devices=tuple(plans),
    )  # fmt: skip


def _predictor(trained: Trained) -> tuple[Predictor | None, Agreement | None, Metric]:
    """The predictor of the run, its agreement on samples left out, and the metric that its quality stands for.

    None where no device leaves a choice.
    """
    request = trained.network.request
    if not any(choice.has_choice for choice in trained.choices):
        return None, None, Metric()
    # One without the samples that it has learnt from may have learnt another quality.
    learnt = all((request.out / name).is_file() for name in (SAMPLES, AGREEMENT, PREDICTOR))
    samples = _samples(trained)
    metric = trained.measure.metric_of(samples)
    if learnt:
        told = Agreement.model_validate_json((request.out / AGREEMENT).read_bytes())
        return load(request.out / PREDICTOR), told, metric
    space = trained.subnets.supernet.space
    kept = len(samples) - max(2, round(LEFT_OUT * len(samples)))
    net, kinds, noise = train(space, samples[:kept])
    told = agreement(net, samples[kept:]).model_copy(update={"noise": noise})
    errors = ", ".join(f"{kind} {one.rmse:.3f}" for kind, one in kinds.items())
    note(f"predictor: {net.KIND} (error on the samples that chose: {errors} {trained.measure.unit})")
    sizes = sorted({kept // 2, *(size for size in CURVE_SIZES if size < kept)})
    curve = learning_curve(
        lambda some: train(space, some).predictor, samples[:kept], samples[kept:], [size for size in sizes if size >= 4]
    )
    write_json(request.out / CURVE, {str(size): one.model_dump() for size, one in curve.items()})
    net.save(request.out / PREDICTOR)
    write_text(request.out / AGREEMENT, told.model_dump_json(indent=1) + "\n")
    return net, told, metric


def _samples(trained: Trained) -> list[Measured]:
    """Subnets with their true quality; those of an earlier call are read again."""
    request, space = trained.network.request, trained.subnets.supernet.space
    accounting = Accounting.of(trained.table, space)
    names = "/".join(sample.name for sample in trained.measure.samples)
    owner = f"{values_digest(request.out / STATE)}/{request.calibration_count}/{names}"
    if trained.measure.name != trained.network.loaded.workload.metric:
        owner += f"/{trained.measure.name}"
    return collect(
        space, accounting, _Target(trained), request.samples, seed=request.seed, owner=owner, path=request.out / SAMPLES
    )


class _Target:
    """What the predictor learns: quality, for images no lower than LARGEST_DROP below 8 bits in the same form."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.images = not isinstance(trained.network.loaded.workload, Classification)
        self.wide: dict[int, float] = {}

    def __call__(self, configuration: Configuration) -> Scored:
        found, form = self.trained.scored(configuration), configuration.form
        if not self.images or form is None:
            return found
        if form.index not in self.wide:
            self.wide[form.index] = self.trained.quality(self.trained.subnets.supernet.space.uniform(8, form))
        return Scored(max(found.value, self.wide[form.index] - LARGEST_DROP), found.extra)
