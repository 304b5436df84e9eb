"""One point of a run of QuantNAS: a search, its pictures, and the training of what it found."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from bitwright.foundation.files import write_json, write_text
from bitwright.foundation.progress import note
from bitwright.runs.event_log import EventLog
from bitwright.runs.quantnas_bench import Bench
from bitwright.runs.quantnas_result import QuantnasPoint
from compress.training.processes import Processes
from search.quantnas import Found, Search, deployable, network_bitops, retrain
from search.quantnas.cost_table import REPORTED_SIDES
from search.quantnas.data_split import split_by_picture
from search.quantnas.drawing import draw_alphas, draw_architecture
from search.quantnas.retrain import STATE as RETRAIN_STATE
from search.quantnas.search import STATE as SEARCH_STATE
from workloads.super_resolution.metrics import WHOLE_LUMA
from workloads.super_resolution.models.searched import Genotype, save_network
from workloads.super_resolution.task import SuperResolution

POINT, NETWORK, GENOTYPE, SPLIT, EVENTS = "point.json", "network.safetensors", "genotype.json", "split.json", "events"


def carry_out(bench: Bench, name: str, budget: float | None, penalty: float | None, group: Processes) -> QuantnasPoint:
    """Search for a budget or with a penalty and train what is found, in the folder `name` of the run.

    What is done already is read; what was stopped is continued.
    """
    folder = bench.request.out / name
    if (folder / POINT).is_file():
        note(f"{name}: done before")
        return QuantnasPoint.model_validate_json((folder / POINT).read_bytes())
    settings = bench.request.search(budget, penalty)
    workload = bench.workload()
    pictures = workload.training(bench.request.data, settings.patch, settings.seed)
    split = split_by_picture(pictures, settings.share, settings.seed)
    log = EventLog(folder / EVENTS) if group.first and bench.request.tensorboard else None
    if group.first:
        write_json(folder / SPLIT, {part: list(numbers) for part, numbers in split.pictures.items()})
    told = None if log is None else log.listener("search")
    found = Search(bench.space, bench.table, split, settings, group, folder / SEARCH_STATE, told).run()
    if group.first:
        _write_found(bench, found, folder, settings.warm_up)
        note(f"{name}: found {found.cost:.4g} {bench.table.unit}, {network_bitops(found.genotype, 32, 32):.4g} BitOps")
    quality = parameters = None
    evaluated: tuple[float, float] | None = None
    if bench.request.retrain:
        quality, evaluated, parameters = _trained(bench, found.genotype, folder, group, log)
    if log is not None:
        log.close()
    point = QuantnasPoint(
        name=name, budget=budget, penalty=penalty, cost=found.cost, corrected=found.corrected,
        final_penalty=found.penalty, expected=found.expected,
        bitops={f"{s}x{s}": network_bitops(found.genotype, s, s) for s in REPORTED_SIDES},
        parameters=parameters, held_out=quality, evaluated=None if evaluated is None else evaluated[0],
        evaluated_published=None if evaluated is None else evaluated[1], search_seconds=found.seconds,
        genotype=f"{name}/{GENOTYPE}", network=f"{name}/{NETWORK}" if bench.request.retrain else None,
    )  # fmt: skip
    if group.first:
        write_text(folder / POINT, point.model_dump_json(indent=1) + "\n")
    return point


def _trained(bench: Bench, genotype: Genotype, folder: Path, group: Processes,
             log: EventLog | None) -> tuple[float, tuple[float, float] | None, int]:  # fmt: skip
    """Held-out quality, quality on --eval (by our protocol and the published one), parameters; writes the network."""
    request, settings = bench.request, bench.request.retraining()
    workload = bench.workload()
    held_out = workload.held_out(request.data)[: settings.checked_pictures]

    def score(network: nn.Module) -> float:
        device = next(network.parameters()).device
        return workload.evaluate(lambda x: network(x.to(device)).cpu(), held_out).mean

    data = workload.training(request.data, settings.patch, settings.seed + 1)
    made = retrain(
        genotype, data, settings, score=score, processes=group, path=folder / RETRAIN_STATE,
        on_log=None if log is None else log.listener("retraining"),
    )  # fmt: skip
    network = deployable(made.network)
    evaluated: tuple[float, float] | None = None
    if group.first:
        save_network(folder / NETWORK, network)
        if request.eval_data is not None:
            samples, published = workload.samples(request.eval_data), SuperResolution(workload.io, WHOLE_LUMA)
            with torch.no_grad():
                ours, theirs = (task.evaluate(made.network, samples).mean for task in (workload, published))
                evaluated = (ours, theirs)
    return made.score, evaluated, sum(p.numel() for p in network.parameters())


def _write_found(bench: Bench, found: Found, folder: Path, warm_up: int) -> None:
    found.genotype.save(folder / GENOTYPE)
    write_text(folder / "history.jsonl", "".join(json.dumps(entry) + "\n" for entry in found.history))
    for suffix in ("svg", "png"):
        draw_architecture(found.genotype, folder / f"architecture.{suffix}")
    shared = bench.space.share_cell_alphas
    sites = {(s.shared if shared else s.name).replace(".", "_"): s for s in bench.space.wiring.sites}
    tokens, bits = {n: s.tokens for n, s in sites.items()}, {n: s.bits for n, s in sites.items()}
    draw_alphas(found.alphas, tokens, bits, folder / "alphas.png", warm_up=warm_up)
