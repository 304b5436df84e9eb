"""Settling which runtime a job is for, once the float network is exported: LiteRT lacks some operators."""

from __future__ import annotations

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note
from bitwright.runs.job import Job
from bitwright.runs.runtime_choice import buildable, choose_runtime
from deploy.engine import Runtime
from deploy.tflite import compile_file


def settle_runtime(job: Job) -> None:
    """Take the device's next runtime where LiteRT, which nobody asked for by name, lacks an operator of the network.

    UsageError, before any work is done, where it was asked for or there is no other.
    """
    if job.runtime is not Runtime.LITERT:
        return
    try:
        compile_file(job.float_onnx, (1, job.example.shape[1], *job.input_size))
    except UsageError as error:
        other = instead(job)
        if other is None:
            raise
        job.runtime = other
        note(f"{error}: built for {job.runtime}")


def instead(job: Job) -> Runtime | None:
    """What LiteRT gives way to; None where it was asked for by name or there is no other, and of other runtimes."""
    if job.runtime is not Runtime.LITERT or job.request.runtime is not None:
        return None
    if not buildable(job.profile, without=Runtime.LITERT):
        return None
    return choose_runtime(job.profile, None, job.request.precision, without=Runtime.LITERT)
