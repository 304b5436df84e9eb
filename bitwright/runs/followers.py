"""The processes beside the first that `torchrun` starts: they take part in a job's training, and in nothing else."""

from __future__ import annotations

from pathlib import Path

from bitwright.runs import mask_training, recovery
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from bitwright.runs.request import CompressRequest
from compress.training.processes import MASKS, NOTHING, RECOVERY, started, wait_for_order


def follows() -> bool:
    """Whether this process is such a one."""
    return started()[0] > 0


def follow(request: CompressRequest) -> None:
    """Wait until the first process comes to each training, take part in it, and return.

    Nothing is written. Where the first process fails before that, `torchrun` ends this one.
    """
    order = wait_for_order(MASKS)
    if order != NOTHING:
        mask_training.train(Job.open(request, RunFolder.beside(Path(order))))
    order = wait_for_order(RECOVERY)
    if order != NOTHING:
        recovery.train(Job.open(request, RunFolder.beside(Path(order))))
