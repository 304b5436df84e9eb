"""load_checkpoint: from a file to a float network that knows its task."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from bitwright.foundation.errors import CheckpointError, MissingPackageError
from bitwright.foundation.files import sha256_file
from workloads.architecture import Network
from workloads.checkpoint import Checkpoint, read_checkpoint
from workloads.classification.format import ClassificationFormat
from workloads.classification.task import Classification
from workloads.factory import build_from_factory
from workloads.recognise import UnrecognisedError, recognise
from workloads.spandrel_models import recognise_with_spandrel
from workloads.strict import load_strict
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.models.searched.network import network_of_metadata
from workloads.super_resolution.task import SuperResolution
from workloads.workload import LoadedModel, Workload


def load_checkpoint(path: Path, *, model: str | None = None, scale: int | None = None) -> LoadedModel:
    """Load the weights at `path`, a safetensors or torch file, into a network in eval mode.

    The architecture is recognised from the keys and shapes, or made by `model`, a "package.module:factory". `scale`
    picks among the factors that the weights serve (CARN: several tails), and overrides what is told from the weights'
    behaviour (PAN x2 and x3, FSRCNN). Nothing in the file is executed. Raises CheckpointError (unsafe, damaged, of
    another architecture, NaN, no such scale) or UsageError (`model` cannot be imported or called).
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    if model is not None:
        module, workload = build_from_factory(model)
        load_strict(module, checkpoint.state, path, model)
        architecture = model
        if scale is not None and isinstance(workload, SuperResolution) and workload.io.scale != scale:
            raise CheckpointError(f"{model} enlarges by {workload.io.scale}, not by {scale}")
    else:
        architecture, module, workload = _recognised(checkpoint, scale)
    return LoadedModel(module.eval(), architecture, workload, path, sha256_file(path))


def workload_for(io: SRFormat | ClassificationFormat) -> Workload:
    """The task that has this input and output."""
    return SuperResolution(io) if isinstance(io, SRFormat) else Classification(io)


def _recognised(checkpoint: Checkpoint, scale: int | None) -> tuple[str, nn.Module, Workload]:
    searched = network_of_metadata(checkpoint.metadata, checkpoint.state, checkpoint.path)
    if searched is not None:
        name = f"searched-{searched.body.space.name}"
        return name, _resolve(searched, scale, checkpoint.path, name), workload_for(searched.io)
    try:
        architecture, network = recognise(checkpoint.state, checkpoint.path)
    except UnrecognisedError as ours:
        return _second_opinion(checkpoint, scale, ours)
    resolved = _resolve(network, scale, checkpoint.path, architecture.name)
    return architecture.name, resolved, workload_for(resolved.io)


def _resolve(network: Network, scale: int | None, path: Path, name: str) -> Network:
    try:
        return network.resolve(scale)
    except ValueError as error:
        raise CheckpointError(f"{path} ({name}) {error}") from error


def _second_opinion(
    checkpoint: Checkpoint, scale: int | None, ours: UnrecognisedError
) -> tuple[str, nn.Module, Workload]:
    """What spandrel makes of it; where it fails, our own message, which names the keys."""
    try:
        name, module, io = recognise_with_spandrel(checkpoint.state, checkpoint.path)
    except MissingPackageError as missing:
        raise UnrecognisedError(f"{ours}. More architectures are known to the extra 'spandrel': {missing}") from missing
    except CheckpointError as theirs:
        raise ours from theirs
    if scale not in (None, io.scale):
        raise CheckpointError(f"{checkpoint.path} ({name}) has no weights for x{scale}, only for x{io.scale}")
    return name, module, SuperResolution(io)
