"""Reading a checkpoint file into a state dict without executing anything that the file brings."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bitwright.foundation.errors import CheckpointError
from workloads.pickle_globals import unsafe_globals

WRAPPERS = (
    "params_ema",
    "state_dict_ema",
    "model_ema",
    "ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "generator",
    "weights",
)
"""Keys under which training scripts put the weights, smoothed ones first."""

PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "generator.")
"""What DataParallel, Lightning, torch.compile and training wrappers put in front of every key."""


@dataclass(frozen=True)
class Checkpoint:
    """Named weights as they stand in a file, in float32 where they are floating point, and the file's text metadata."""

    path: Path
    state: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a safetensors file or a torch file (`weights_only=True`) and unwrap it to a flat state dict.

    Raises CheckpointError where the file is missing, empty, truncated, not a checkpoint, brings code, or holds NaN.
    """
    path = Path(path)
    head = _head(path)
    metadata: dict[str, str] = {}
    if head[8:9] == b"{":
        state, metadata = _read_safetensors(path)
    elif head.startswith((b"PK", b"\x80")):
        state = _unwrap(_read_torch(path), path)
    else:
        raise CheckpointError(f"{path} is not a checkpoint: it is neither a safetensors nor a torch.save file")
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    refuse_non_finite(state, path)
    return Checkpoint(path, state, metadata)


def without_prefix(state: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    """The state dict without the first known prefix that all keys share; None if they share none."""
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return {key.removeprefix(prefix): value for key, value in state.items()}
    return None


def refuse_non_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError that names the tensors with NaN or infinite values, and how many each has."""
    counts = {key: int((~torch.isfinite(value)).sum()) for key, value in state.items() if value.is_floating_point()}
    bad = [f"{key} ({count} of {state[key].numel()})" for key, count in counts.items() if count]
    if bad:
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise CheckpointError(
            f"{path} holds NaN or infinite weights in {', '.join(bad[:8])}{more}: use another snapshot"
        )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            head = handle.read(16)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint at {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes): download or save it again")
    return head


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as opened:
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            metadata = dict(opened.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{path} is a truncated or damaged safetensors file ({error}): get it again") from error
    if not state:
        raise CheckpointError(f"{path} holds no tensors")
    return state, metadata


def _read_torch(path: Path) -> object:
    if _is_torchscript(path):
        raise CheckpointError(f"{path} is a TorchScript archive, which is code: save model.state_dict() instead")
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = unsafe_globals(path)
        if found:
            raise CheckpointError(
                f"{path} is a pickle with code and was not loaded; it asks for {', '.join(found)}. "
                "Save only model.state_dict(), or safetensors"
            ) from error
        raise CheckpointError(f"{path} is not a checkpoint, or a damaged one: its pickle cannot be read") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} is a truncated or damaged torch file ({reason}): get it again") from error
    return loaded


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def _unwrap(loaded: object, path: Path) -> dict[str, Tensor]:
    """Descend through wrappers to the first dict that holds nothing but named tensors."""
    trail: list[str] = []
    while isinstance(loaded, Mapping):
        if loaded and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
            return {str(key): value.detach() for key, value in loaded.items()}
        wrapper = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if wrapper is None:
            keys = ", ".join(repr(key) for key in list(loaded)[:8]) or "nothing"
            raise CheckpointError(
                f"{path} holds no state dict{' under ' + '.'.join(trail) if trail else ''}: found {keys}"
            )
        trail.append(wrapper)
        loaded = loaded[wrapper]
    raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a state dict: save model.state_dict()")
