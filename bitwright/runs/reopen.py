"""Opening a finished run again: its request, its job, and its compressed network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitwright.foundation.errors import UsageError
from bitwright.recipes import load_recipe
from bitwright.runs.built import MODEL
from bitwright.runs.folder import REQUEST, RunFolder
from bitwright.runs.job import Job
from bitwright.runs.request import CompressRequest
from compress.compressed import CompressedModel


def request_of(run: Path) -> CompressRequest:
    """The request that a run folder was made for; UsageError if it holds no run."""
    if not (run / REQUEST).is_file():
        raise UsageError(f"{run} holds no run; give the run folder of `bitwright compress`")
    settings = load_recipe(run / REQUEST).settings
    return CompressRequest.model_validate({**settings, "out": run})


@contextmanager
def reopened(run: Path) -> Iterator[Job]:
    """A finished run as a job, locked while it is used. Its checkpoint and pictures must still be where they were."""
    with RunFolder.open(request_of(run), resume=True) as folder:
        if not folder.finished:
            raise UsageError(f"{run} is not finished; continue with: bitwright compress ... --resume")
        yield Job.open(request_of(run), folder)


def compressed_network(job: Job) -> CompressedModel:
    """The compressed network of a run."""
    return CompressedModel.load(job.run.path / MODEL, job.graph)
