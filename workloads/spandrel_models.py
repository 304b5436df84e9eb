"""Networks that spandrel recognises: the optional second opinion on a checkpoint that is none of ours."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from bitwright.foundation.errors import CheckpointError, MissingPackageError
from bitwright.foundation.optional import require
from workloads.architecture import StateDict
from workloads.receptive_field import halo
from workloads.super_resolution.format import Color, SRFormat


def recognise_with_spandrel(state: StateDict, path: Path) -> tuple[str, nn.Module, SRFormat]:
    """Architecture name, loaded network in eval mode, and format, values in 0..1.

    Raises MissingPackageError without the `spandrel` extra, CheckpointError where spandrel does not know the state dict
    or the network does not enlarge pictures of equal input and output channels.
    """
    try:
        spandrel = require("spandrel", extra="spandrel")
    except RuntimeError as error:
        # torchvision built for another torch fails to register its operators, which is no ImportError.
        raise MissingPackageError(
            f"spandrel cannot be imported ({error}); install it with: pip install 'bitwright[spandrel]'"
        ) from error
    try:
        found = spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(state))
    except (spandrel.UnsupportedModelError, RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: spandrel does not know it either ({error})") from error
    name = str(found.architecture.id).lower()
    if found.input_channels != found.output_channels or found.input_channels not in (1, 3):
        raise CheckpointError(
            f"{path} is a {name} that maps {found.input_channels} channels to {found.output_channels}"
        )
    color = Color.RGB if found.input_channels == 3 else Color.Y
    network: nn.Module = found.model.eval()
    reach = halo(network, channels=found.input_channels, scale=found.scale)
    side = int(found.size_requirements.minimum or 1)
    return name, network, SRFormat(found.scale, color, 1.0, min_input_side=max(side, 1), halo=reach)
