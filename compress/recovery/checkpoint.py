"""The state of a recovery training on disk: one safetensors file, written atomically."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitwright.foundation.errors import CheckpointError, UsageError
from bitwright.foundation.files import atomic_path

METADATA = "recovery"
MOMENTS = ("exp_avg", "exp_avg_sq")
Values = dict[str, Tensor]


@dataclass
class Position:
    """Where a training is. `total` is 0 until a time budget has become a number of steps; `history`: see `Entry`."""

    fingerprint: str
    step: int = 0
    total: int = 0
    seconds: float = 0.0
    before: float = 0.0
    best: float = 0.0
    best_step: int = 0
    history: list[tuple[int, float, float | None]] = field(default_factory=list)


def save(path: Path, position: Position, groups: dict[str, Values], moments: dict[str, Values]) -> None:
    """Write `groups` of named values, Adam's moments and torch's random state."""
    tensors = {f"{group}/{name}": v for group, values in groups.items() for name, v in values.items()}
    tensors |= {f"{moment}/{name}": v for moment, values in moments.items() for name, v in values.items()}
    tensors["random"] = torch.get_rng_state()
    stored = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata={METADATA: json.dumps(asdict(position))})


def load(path: Path, fingerprint: str) -> tuple[Position, dict[str, Values]]:
    """What `save` wrote: the position and all groups, moments among them; sets torch's random state.

    CheckpointError for a file of something else, UsageError for one of another training.
    """
    try:
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(METADATA)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged; delete it to start the training again: {error}") from error
    if described is None:
        raise CheckpointError(f"{path} is not the state of a recovery training; delete it to start again")
    fields = json.loads(described)
    fields["history"] = [tuple(entry) for entry in fields["history"]]
    position = Position(**fields)
    if position.fingerprint != fingerprint:
        raise UsageError(f"{path} belongs to another model, plan or settings; delete it to start the training again")
    torch.set_rng_state(tensors.pop("random"))
    groups: dict[str, Values] = {}
    for name, value in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = value
    return position, groups
