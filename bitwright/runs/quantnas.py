"""A run of QuantNAS: for each budget a search and the training of what it found, or a sweep of penalties; the front."""

from __future__ import annotations

from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from bitwright.runs.lock import FolderLock
from bitwright.runs.quantnas_bench import Bench
from bitwright.runs.quantnas_point import NETWORK, carry_out
from bitwright.runs.quantnas_request import QuantnasRequest
from bitwright.runs.quantnas_result import QuantnasResult, front_of
from bitwright.runs.quantnas_sweep import sweep
from bitwright.runs.search_folder import prepare_folder
from compress.training.processes import processes
from search.quantnas.drawing import draw_front

RESULT = "result.json"
MAY_CHANGE = frozenset({"sweep", "tensorboard"})
"""What a continuation may have otherwise: more trials, other logs."""


def search(request: QuantnasRequest, *, resume: bool = False) -> QuantnasResult:
    """Carry out or continue a run. Every process that `torchrun` started takes part; the first one writes.

    Any number of processes share a sweep. UsageError for a folder that holds another run, or this one unfinished
    without `resume`.
    """
    bench = Bench.open(request)
    lock = FolderLock(request.out)
    try:
        with processes() as group:
            if group.first:
                alone = lock if request.sweep is None else None
                prepare_folder(request, request.out, resume=resume, may_change=MAY_CHANGE, lock=alone)
            for remark in bench.notes:
                note(remark)
            if request.sweep is None:
                points = [carry_out(bench, *point, group) for point in request.points()]
            else:
                points = sweep(bench, group)
            result = QuantnasResult(
                space=bench.space.name, unit=bench.table.unit, cost_source=bench.table.source,
                runs_as={str(bits): name for bits, name in bench.runs_as.items()}, notes=bench.notes,
                points=tuple(points), front=front_of(points),
            )  # fmt: skip
            if group.first:
                _write(request, result)
        # The group is closed by now: nobody waits in it while the first process compresses.
        if group.first and request.compress:
            _compress(request, result)
    finally:
        lock.release()
    return result


def _write(request: QuantnasRequest, result: QuantnasResult) -> None:
    write_text(request.out / RESULT, result.model_dump_json(indent=1) + "\n")
    scored = [(p.name, p.cost, p.evaluated or p.held_out or 0.0) for p in result.points]
    if len(scored) > 1 and request.retrain:
        draw_front(scored, result.unit, "PSNR-Y, dB", request.out / "front.png")


def _compress(request: QuantnasRequest, result: QuantnasResult) -> None:
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
