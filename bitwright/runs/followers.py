"""The processes beside the first that `torchrun` starts: they take part in a job's training, and in nothing else."""

from __future__ import annotations

from pathlib import Path

from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from bitwright.runs.recovery import train
from bitwright.runs.request import CompressRequest
from compress.training.processes import NOTHING, started, wait_for_order


def follows() -> bool:
    """Whether this process is such a one."""
    return started()[0] > 0


def follow(request: CompressRequest) -> None:
    """Wait until the first process comes to the training, take part in it, and return.

    Nothing is written. Where the first process fails before that, `torchrun` ends this one.
    """
    order = wait_for_order()
    if order != NOTHING:
        train(Job.open(request, RunFolder.beside(Path(order))))
