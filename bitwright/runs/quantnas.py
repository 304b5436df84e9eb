"""A run of QuantNAS: for each budget a search, the training of what it found, its pictures; then the front."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from bitwright.runs.job import choose_runtime
from bitwright.runs.lock import FolderLock
from bitwright.runs.quantnas_request import QuantnasRequest
from bitwright.runs.quantnas_result import QuantnasPoint, QuantnasResult
from bitwright.runs.search_folder import prepare_folder
from compress.recovery.processes import Processes, processes
from hw_profiles import DeviceProfile, DType, load_profile
from hw_profiles.latency_table import LatencyTable
from search.quantnas import (
    CostTable,
    Found,
    Search,
    Where,
    bitops_costs,
    deployable,
    latency_costs,
    network_bitops,
    retrain,
)
from search.quantnas.cost_table import REPORTED_SIDES
from search.quantnas.data_split import split_by_picture
from search.quantnas.drawing import draw_alphas, draw_architecture, draw_front
from search.quantnas.latency_costs import legal_widths, native_widths, off_step
from search.quantnas.retrain import STATE as RETRAIN_STATE
from search.quantnas.search import STATE as SEARCH_STATE
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.searched import Genotype, SearchSpace, save_network
from workloads.super_resolution.models.searched.attention import MIN_INPUT_SIDE
from workloads.super_resolution.task import SuperResolution

RESULT, POINT = "result.json", "point.json"
NETWORK, GENOTYPE = "network.safetensors", "genotype.json"


@dataclass(frozen=True)
class Bench:
    """A request with everything that it names opened: space, costs, what its widths run as."""

    request: QuantnasRequest
    space: SearchSpace
    table: CostTable
    runs_as: dict[int, str]
    notes: tuple[str, ...]

    @staticmethod
    def open(request: QuantnasRequest) -> Bench:
        """UsageError where space, device, widths and table do not fit each other."""
        request.check_inputs()
        space = request.searched_space()
        if request.device is None:
            return Bench(request, space, _bitops(request, space), {}, ())
        profile = load_profile(request.device)
        runtime = choose_runtime(profile, request.runtime).value
        remarks: list[str] = []
        if request.by_latency:
            space = _legal(request, space, profile, runtime, remarks)
            height, width = request.input_size or (128, 128)
            measured = None if request.table is None else LatencyTable.load(request.table)
            found = latency_costs(space, Where(profile, runtime, 1, height, width), measured)
            remarks.append(f"cost: {found.table.source}")
            table, runs_as = found.table, found.runs_as
        else:
            table = _bitops(request, space)
            runs_as = {bits: rule.executes_as.value for bits, rule in legal_widths(space, profile, runtime).items()}
        same = [b for b, executed in runs_as.items() if executed == DType.INT8.value and b < 8]
        if same:
            widths = ", ".join(map(str, same))
            remarks.append(f"on {profile.id}, {widths}-bit layers run as int8: smaller, not faster than 8 bit")
        if odd := off_step(space, profile):
            step = profile.channel_step(DType.INT8)
            remarks.append(f"{len(odd)} layers, such as {odd[0]}, make channels that are no multiple of {step}")
        return Bench(request, space, table, runs_as, tuple(remarks))


def search(request: QuantnasRequest, *, resume: bool = False) -> QuantnasResult:
    """Carry out or continue a run. Every process that `torchrun` started takes part; the first one writes.

    UsageError for a folder that holds another run, or this one unfinished without `resume`.
    """
    bench = Bench.open(request)
    with processes() as group:
        lock = FolderLock(request.out)
        if group.first:
            prepare_folder(request, request.out, resume=resume)
            lock.acquire()
        try:
            for remark in bench.notes:
                note(remark)
            points = [_point(bench, *point, group) for point in request.points()]
            result = QuantnasResult(
                space=bench.space.name, unit=bench.table.unit, cost_source=bench.table.source,
                runs_as={str(bits): name for bits, name in bench.runs_as.items()}, notes=bench.notes,
                points=tuple(points),
            )  # fmt: skip
            if group.first:
                _finish(request, result)
        finally:
            lock.release()
    return result


def _point(bench: Bench, name: str, budget: float | None, penalty: float | None, group: Processes) -> QuantnasPoint:
    folder = bench.request.out / name
    if (folder / POINT).is_file():
        note(f"{name}: done before")
        return QuantnasPoint.model_validate_json((folder / POINT).read_bytes())
    settings = bench.request.search(budget, penalty)
    workload = _workload(bench.space)
    pictures = workload.training(bench.request.data, settings.patch, settings.seed)
    split = split_by_picture(pictures, settings.share, settings.seed)
    job = Search(bench.space, bench.table, split, settings, group, folder / SEARCH_STATE)
    found = job.run()
    if group.first:
        _write_found(bench, found, folder, settings.warm_up)
        note(f"{name}: found {found.cost:.4g} {bench.table.unit}, {network_bitops(found.genotype, 32, 32):.4g} BitOps")
    quality = quality_eval = parameters = None
    if bench.request.retrain:
        quality, quality_eval, parameters = _trained(bench, found.genotype, folder, group)
    point = QuantnasPoint(
        name=name, budget=budget, penalty=penalty, cost=found.cost, corrected=found.corrected,
        bitops={f"{s}x{s}": network_bitops(found.genotype, s, s) for s in REPORTED_SIDES},
        parameters=parameters, held_out=quality, evaluated=quality_eval, search_seconds=found.seconds,
        genotype=f"{name}/{GENOTYPE}", network=f"{name}/{NETWORK}" if bench.request.retrain else None,
    )  # fmt: skip
    if group.first:
        write_text(folder / POINT, point.model_dump_json(indent=1) + "\n")
    return point


def _trained(bench: Bench, genotype: Genotype, folder: Path, group: Processes) -> tuple[float, float | None, int]:
    """Held-out quality, quality on --eval, and parameters of the trained network, which is written."""
    request, settings = bench.request, bench.request.retraining()
    workload = _workload(bench.space)
    held_out = workload.held_out(request.data)[: settings.checked_pictures]

    def score(network: nn.Module) -> float:
        device = next(network.parameters()).device
        return workload.evaluate(lambda x: network(x.to(device)).cpu(), held_out).mean

    data = workload.training(request.data, settings.patch, settings.seed + 1)
    made = retrain(
        genotype, data, settings, score=score, processes=group, path=folder / RETRAIN_STATE
    )  # fmt: skip
    network = deployable(made.network)
    evaluated = None
    if group.first:
        save_network(folder / NETWORK, network)
        if request.eval_data is not None:
            with torch.no_grad():
                evaluated = workload.evaluate(made.network, workload.samples(request.eval_data)).mean
    return made.score, evaluated, sum(p.numel() for p in network.parameters())


def _write_found(bench: Bench, found: Found, folder: Path, warm_up: int) -> None:
    found.genotype.save(folder / GENOTYPE)
    write_text(folder / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in found.history))
    for suffix in ("svg", "png"):
        draw_architecture(found.genotype, folder / f"architecture.{suffix}")
    shared = bench.space.share_cell_alphas
    tokens = {(s.shared if shared else s.name).replace(".", "_"): s.tokens for s in bench.space.wiring.sites}
    draw_alphas(found.alphas, tokens, bench.space.bits, folder / "alphas.png", warm_up=warm_up)


def _finish(request: QuantnasRequest, result: QuantnasResult) -> None:
    write_text(request.out / RESULT, result.model_dump_json(indent=1) + "\n")
    scored = [(p.name, p.cost, p.evaluated or p.held_out or 0.0) for p in result.points]
    if len(scored) > 1 and request.retrain:
        draw_front(scored, result.unit, "PSNR-Y, dB", request.out / "front.png")
    if not request.compress:
        return
    from bitwright.runs.compress import compress
    from bitwright.runs.request import CompressRequest

    for point in result.points:
        asked = {
            "checkpoint": request.out / point.name / NETWORK, "device": request.device, "data": request.data,
            "eval_data": request.eval_data, "runtime": request.runtime, "out": request.out / point.name / "compressed",
        }  # fmt: skip
        job = CompressRequest.model_validate(asked)
        if not (job.run_folder / CompressRequest.page).is_file():
            compress(job, resume=job.run_folder.exists())


def _workload(space: SearchSpace) -> SuperResolution:
    attentive = any(part.kind == "esa" for part in space.wiring.fixed)
    return SuperResolution(SRFormat(space.scale, Color.RGB, 1.0, min_input_side=MIN_INPUT_SIDE if attentive else 1))


def _bitops(request: QuantnasRequest, space: SearchSpace) -> CostTable:
    height, width = request.input_size or (32, 32)
    return bitops_costs(space, height=height, width=width)


def _legal(request: QuantnasRequest, space: SearchSpace, profile: DeviceProfile, runtime: str,
           remarks: list[str]) -> SearchSpace:  # fmt: skip
    """The space with widths that the device gains from, unless others were asked for by name."""
    step = profile.channel_step(DType.INT8) or 1
    if space.width % step:
        fitting = [w for w in range(step, 2 * space.width + 4 * step, step) if _can_have(space, w)]
        nearest = sorted(fitting, key=lambda w: abs(w - space.width))[:2]
        advice = f"give --width {' or '.join(map(str, sorted(nearest)))}" if nearest else "change its groups"
        raise UsageError(
            f"{space.name} is {space.width} channels wide, no multiple of {step}, and {profile.id} would be slow for "
            f"that alone: {advice}"
        )
    if request.bits is not None:
        return space
    native = native_widths(space, profile, runtime)
    if not native:
        raise UsageError(f"{profile.id} runs none of {space.bits} bits at its own speed; choose with --bits")
    if native != space.bits:
        remarks.append(f"bit widths that {profile.id} gains from: {', '.join(map(str, native))} of {space.bits}")
    return space.resized(bits=native)


def _can_have(space: SearchSpace, width: int) -> bool:
    try:
        space.resized(width=width)
    except UsageError:
        return False
    return True
