"""Which architecture a state dict belongs to, told from its keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from bitwright.foundation.errors import CheckpointError
from workloads.architecture import Architecture, Network, StateDict
from workloads.classification.models import ARCHITECTURES as CLASSIFICATION
from workloads.strict import Difference, difference, load_strict, spellings
from workloads.super_resolution.models import ARCHITECTURES as SUPER_RESOLUTION

ARCHITECTURES: tuple[Architecture, ...] = (*SUPER_RESOLUTION, *CLASSIFICATION)
"""Every architecture that is recognised; a new one is a file with an ARCHITECTURE, listed in its package."""

WORTH_NAMING = 0.2


class UnrecognisedError(CheckpointError):
    """No architecture of ours has exactly these keys and shapes."""


@dataclass(frozen=True)
class _Guess:
    architecture: Architecture
    overlap: float
    departs: Difference


def recognise(state: StateDict, path: Path) -> tuple[Architecture, Network]:
    """The architecture of `state` and its network, loaded strictly and in eval mode; `path` is for messages.

    A network whose weights serve several scale factors comes back unresolved (see `Network.resolve`).
    Raises UnrecognisedError that names the nearest architecture with its missing, unexpected and misshapen keys.
    """
    guesses = []
    with torch.random.fork_rng(devices=[]):
        for spelling in spellings(state):
            for architecture in ARCHITECTURES:
                keyed, network = _instance(architecture, spelling)
                departs = difference(network, keyed)
                if departs.empty:
                    load_strict(network, keyed, path, architecture.name)
                    return architecture, network.eval()
                guesses.append(_Guess(architecture, _overlap(keyed, network.state_dict()), departs))
    raise UnrecognisedError(_explain(path, max(guesses, key=lambda guess: guess.overlap)))


def _instance(architecture: Architecture, state: StateDict) -> tuple[StateDict, Network]:
    """The state dict under the architecture's keys, and the network that its shapes imply; else the reference one."""
    if all(mark in state for mark in architecture.marks):
        try:
            keyed = architecture.translate(state) if architecture.translate else state
            return keyed, architecture.build(keyed)
        except (KeyError, IndexError, ValueError, ZeroDivisionError, RuntimeError):
            # The marks are there but the shapes make no sense for it: compare with the published sizes instead.
            pass
    with torch.device("meta"):
        return state, architecture.reference()


def _overlap(left: Iterable[str], right: Iterable[str]) -> float:
    """Share of key patterns in common (intersection over union), numbers in the keys left out."""
    patterns_left, patterns_right = ({re.sub(r"\d+", "#", key) for key in keys} for keys in (left, right))
    return len(patterns_left & patterns_right) / len(patterns_left | patterns_right)


def _explain(path: Path, nearest: _Guess) -> str:
    known = ", ".join(dict.fromkeys(architecture.name for architecture in ARCHITECTURES))
    advice = "give the network with --model package.module:factory"
    if nearest.overlap < WORTH_NAMING:
        names = ", ".join(nearest.departs.unexpected[:8])
        return f"{path} is of no architecture known here ({known}); its keys start with {names}: {advice}"
    return (
        f"{path} is of no architecture known here; nearest is {nearest.architecture.name} "
        f"({nearest.overlap:.0%} of key names in common): {nearest.departs}. If it is another network, {advice}"
    )
