"""A user's own network: `package.module:factory`, a callable without arguments."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import note
from workloads.classification.format import ClassificationFormat
from workloads.classification.models.resnet import IMAGENET_MEAN, IMAGENET_STD
from workloads.classification.task import Classification
from workloads.receptive_field import halo
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.task import SuperResolution
from workloads.workload import Workload

PROBE_SIDE = 48
CLASSIFIER_SIDES = (224, 32)


def build_from_factory(reference: str) -> tuple[nn.Module, Workload]:
    """Import and call `package.module:factory`, which returns a module or a (module, Workload) pair.

    The working directory is importable. Without a Workload the task is told from the shape of the output for a 48x48
    input: 4-D and larger by an integer is super-resolution with values in 0..1, 2-D is classification with ImageNet
    normalisation. Raises UsageError where the reference, the callable or its result will not do.
    """
    module_name, separator, attribute = reference.partition(":")
    if not (separator and module_name and attribute):
        raise UsageError(f"--model must look like package.module:factory, not {reference!r}")
    with _working_directory_importable():
        try:
            imported = importlib.import_module(module_name)
        except ImportError as error:
            raise UsageError(f"--model {reference}: cannot import {module_name} ({error})") from error
        factory = getattr(imported, attribute, None)
        if not callable(factory):
            problem = "has no" if factory is None else "has a value, not a callable, named"
            raise UsageError(f"--model {reference}: {module_name} {problem} {attribute}")
        try:
            made: object = factory()
        except TypeError as error:
            raise UsageError(f"--model {reference}: cannot be called without arguments ({error})") from error
    match made:
        case nn.Module():
            return made, infer_workload(made, reference)
        case (nn.Module() as network, Workload() as workload):
            return network, workload
    raise UsageError(
        f"--model {reference}: returned a {type(made).__name__}; return an nn.Module or (nn.Module, Workload)"
    )


def infer_workload(network: nn.Module, name: str) -> Workload:
    """The task of an unknown network, told from the shape of what it makes of a constant picture."""
    channels = next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)), 3)
    training = network.training
    try:
        for side in (PROBE_SIDE, *CLASSIFIER_SIDES):
            output = _probe(network.eval(), channels, side)
            workload = None if output is None else _workload(network, output, channels, side)
            if workload is not None:
                note(
                    f"{name}: taken for {workload.name} from the shape of its output; else return (nn.Module, Workload)"
                )
                return workload
    finally:
        network.train(training)
    raise UsageError(f"{name}: cannot tell the task from the output; let the factory return (nn.Module, Workload)")


def _workload(network: nn.Module, output: Tensor, channels: int, side: int) -> Workload | None:
    if output.dim() == 2 and channels == 3:
        size = side if side in CLASSIFIER_SIDES else CLASSIFIER_SIDES[0]
        return Classification(ClassificationFormat(output.shape[1], IMAGENET_MEAN, IMAGENET_STD, size))
    enlarged = output.dim() == 4 and output.shape[2] == output.shape[3] and output.shape[2] % side == 0
    if enlarged and output.shape[1] == channels and channels in (1, 3) and output.shape[2] > side:
        scale = output.shape[2] // side
        color = Color.RGB if channels == 3 else Color.Y
        return SuperResolution(SRFormat(scale, color, 1.0, halo=halo(network, channels=channels, scale=scale)))
    return None


@torch.no_grad()
def _probe(network: nn.Module, channels: int, side: int) -> Tensor | None:
    try:
        output: object = network(torch.full((1, channels, side, side), 0.5))
    except RuntimeError:
        return None
    return output if isinstance(output, Tensor) else None


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    entry = str(Path.cwd())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
