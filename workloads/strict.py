"""Loading weights so that every key is used and every layer is filled, or saying precisely why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bitwright.foundation.errors import CheckpointError
from workloads.architecture import StateDict
from workloads.checkpoint import without_prefix

LISTED = 8
OPTIONAL = "num_batches_tracked"
"""A counter of batch normalisation that old checkpoints lack and inference never reads."""


@dataclass(frozen=True)
class Difference:
    """How a state dict departs from what a network wants; `shapes` are ready-made sentences."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether a strict load will succeed."""
        return not (self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        """The parts that are not empty, with counts and the first few names of each."""
        parts = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.shapes))
        return "; ".join(f"{len(names)} {what}: {_first(names)}" for what, names in parts if names)


def difference(network: nn.Module, state: StateDict) -> Difference:
    """Compare keys and shapes."""
    wanted = network.state_dict()
    return Difference(
        missing=tuple(key for key in wanted if key not in state and not key.endswith(OPTIONAL)),
        unexpected=tuple(key for key in state if key not in wanted),
        shapes=tuple(
            f"{key} is {list(state[key].shape)} instead of {list(value.shape)}"
            for key, value in wanted.items()
            if key in state and state[key].shape != value.shape
        ),
    )


def spellings(state: StateDict) -> list[StateDict]:
    """The state dict as it is, then with each shared prefix taken off in turn."""
    found: list[StateDict] = [state]
    while (shorter := without_prefix(found[-1])) is not None:
        found.append(shorter)
    return found


def load_strict(network: nn.Module, state: StateDict, path: Path, name: str) -> None:
    """Fill `network` from whichever spelling of `state` fits; CheckpointError that lists differences if none does."""
    attempts = [(difference(network, spelling), spelling) for spelling in spellings(state)]
    for found, spelling in attempts:
        if found.empty:
            network.load_state_dict(dict(spelling), strict=not _lacks_counters(network, spelling))
            return
    closest = min(attempts, key=lambda attempt: len(attempt[0].missing) + len(attempt[0].unexpected))[0]
    raise CheckpointError(f"{path} does not fit {name}: {closest}")


def _lacks_counters(network: nn.Module, state: StateDict) -> bool:
    """Whether only batch counters are absent, which `difference` has already excused."""
    return any(key.endswith(OPTIONAL) and key not in state for key in network.state_dict())


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
