"""The state of a recovery training on disk: one safetensors file, written atomically."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.training.state import read_groups, write_groups

RANDOM = "random"
Values = dict[str, Tensor]


@dataclass
class Position:
    """Where a training is. `total` is 0 until a time budget has become a number of steps; `history`: see `Entry`.

    `masks`: what moving masks need to go on, as JSON.
    """

    fingerprint: str
    step: int = 0
    total: int = 0
    seconds: float = 0.0
    before: float = 0.0
    best: float = 0.0
    best_step: int = 0
    history: list[tuple[int, float, float | None]] = field(default_factory=list)
    masks: dict[str, Any] = field(default_factory=dict)


def save(path: Path, position: Position, groups: dict[str, Values]) -> None:
    """Write `groups` of named values and torch's random state."""
    write_groups(path, asdict(position), {**groups, RANDOM: {"state": torch.get_rng_state()}})


def load(path: Path, fingerprint: str) -> tuple[Position, dict[str, Values]]:
    """What `save` wrote; sets torch's random state.

    CheckpointError for a file of something else, UsageError for one of another training.
    """
    described, groups = read_groups(path, fingerprint)
    described["history"] = [tuple(entry) for entry in described["history"]]
    torch.set_rng_state(groups.pop(RANDOM)["state"])
    return Position(**described), groups
