"""What a training needs to go on after any step, as one safetensors file; random streams are functions of the step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bitwright.foundation.errors import CheckpointError, UsageError
from bitwright.foundation.files import atomic_path

METADATA = "training"
MOMENTS = ("exp_avg", "exp_avg_sq")
DECIDES = "network, plan or settings"
Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass
class Position:
    """Where a training is. `values`: its scalars (multiplier, best score ...); `history`: its log."""

    fingerprint: str
    step: int = 0
    seconds: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make all random numbers of a step a function of these three: a resumed training draws what it would have."""
    torch.manual_seed(step_seed(seed, step, rank))


def step_seed(seed: int, step: int, rank: int) -> int:
    """The number that `seed_step` seeds with."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def save_state(path: Path, position: Position, groups: Groups) -> None:
    """Write the position and named groups of tensors, atomically."""
    write_groups(path, position.__dict__, groups)


def load_state(path: Path, fingerprint: str, decides: str = DECIDES) -> tuple[Position, dict[str, dict[str, Tensor]]]:
    """What `save_state` wrote; `decides` and errors as in `read_groups`."""
    described, groups = read_groups(path, fingerprint, decides)
    return Position(**described), groups


def write_groups(path: Path, described: dict[str, Any], groups: Groups) -> None:
    """Write named groups of tensors with a description, `fingerprint` in it, atomically."""
    tensors = {f"{g}/{n}": v.detach().cpu().contiguous().clone() for g, vs in groups.items() for n, v in vs.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA: json.dumps(described)})


def read_groups(
    path: Path, fingerprint: str, decides: str = DECIDES
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """What `write_groups` wrote. CheckpointError for a damaged file, UsageError for one of another training.

    `decides`: what the fingerprint is of, in words for that error.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged; delete it to start the training again: {error}") from error
    if text is None:
        raise CheckpointError(f"{path} is not the state of a training; delete it to start again")
    described = json.loads(text)
    if described["fingerprint"] != fingerprint:
        raise UsageError(f"{path} belongs to another {decides}; delete it to start the training again")
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = value
    return described, groups


def moments(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], prefix: str) -> dict[str, Any]:
    """Adam's state as groups of tensors for `save_state`."""
    found: dict[str, dict[str, Tensor]] = {f"{prefix}{m}": {} for m in (*MOMENTS, "step")}
    for name, parameter in named.items():
        state = optimizer.state.get(parameter, {})
        for moment in (*MOMENTS, "step") if state else ():
            found[f"{prefix}{moment}"][name] = torch.as_tensor(state[moment])
    return found


def restore_moments(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], prefix: str,
                    groups: Mapping[str, Mapping[str, Tensor]]) -> None:  # fmt: skip
    """Put back what `moments` took."""
    for name, parameter in named.items():
        if name in groups.get(f"{prefix}step", {}):
            optimizer.state[parameter] = {m: groups[f"{prefix}{m}"][name].to(parameter.device) for m in MOMENTS}
            # A fused or capturable optimiser counts on the device, any other one on the host.
            on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
            place = parameter.device if on_device else "cpu"
            optimizer.state[parameter]["step"] = groups[f"{prefix}step"][name].clone().to(place)
