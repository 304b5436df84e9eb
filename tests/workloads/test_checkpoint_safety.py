"""Hostile, damaged and unusual files: each is refused in one line, or read as what it is; nothing is executed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitwright.foundation.errors import CheckpointError
from workloads.checkpoint import read_checkpoint
from workloads.loading import load_checkpoint
from workloads.pickle_globals import unsafe_globals
from workloads.super_resolution.models.plain import PlainSR, PlainSRConfig


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return PlainSR(PlainSRConfig(scale=2, width=8, depth=3)).state_dict()


def _refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickle_with_code_is_refused_unexecuted(tmp_path: Path, state, zipped: bool, protocol: int) -> None:
    path, target = tmp_path / "evil.pth", tmp_path / "made-by-pickle"
    content = {"state_dict": state, "hook": _Bomb(target)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    message = _refusal(path)
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert "OrderedDict" not in message
    assert "Storage" not in message
    assert not target.exists()


def test_whole_modules_are_refused_by_class_name(tmp_path: Path) -> None:
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "module.pt")
    assert "torch.nn.modules.conv.Conv2d" in _refusal(tmp_path / "module.pt")


def test_plain_weights_ask_for_nothing(tmp_path: Path, state) -> None:
    for zipped in (True, False):
        torch.save({"params": state, "iter": 3}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert unsafe_globals(tmp_path / "w.pth") == []


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.trace(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4)).save(str(path))
    assert "TorchScript" in _refusal(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_file(tmp_path: Path, state, kind: str, share: float) -> None:
    path = tmp_path / "cut"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "damaged" in _refusal(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty (0 bytes)"),
        (b"<!DOCTYPE html><html>404</html>", "is not a checkpoint"),
        (b"PK\x03\x04 not really a zip", "damaged"),
        (b"\x80\x04garbage and more of it", "damaged"),
    ],
)
def test_not_a_checkpoint(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "download.pth"
    path.write_bytes(content)
    assert says in _refusal(path)


def test_absent_file_and_folder(tmp_path: Path) -> None:
    assert "no checkpoint at" in _refusal(tmp_path / "absent.pth")
    assert "cannot read" in _refusal(tmp_path)


def test_non_finite_weights_are_named(tmp_path: Path, state) -> None:
    state["convs.1.weight"][0, 0, 0] = float("nan")
    state["convs.2.bias"][1] = float("inf")
    torch.save(state, tmp_path / "nan.pth")
    message = _refusal(tmp_path / "nan.pth")
    assert "convs.1.weight (3 of 576)" in message
    assert "convs.2.bias (1 of 12)" in message


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 7},
        lambda s: {"params": {k: v + 1 for k, v in s.items()}, "params_ema": s},
        lambda s: {"model": {"state_dict": s}, "optimizer": {"lr": 0.1}},
        lambda s: {"model_state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {k: v.half().float() * 0 + v for k, v in s.items()},
    ],
)
def test_wrappers_are_unwrapped(tmp_path: Path, state, wrap) -> None:
    torch.save(wrap(state), tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth")
    assert loaded.architecture == "plain"
    assert torch.equal(loaded.module.state_dict()["convs.0.weight"], state["convs.0.weight"])
    assert loaded.sha256 == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()


def test_no_state_dict_inside(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.1}, tmp_path / "w.pth")
    assert "found 'epoch', 'loss'" in _refusal(tmp_path / "w.pth")
    torch.save(torch.zeros(3), tmp_path / "t.pth")
    assert "holds a Tensor" in _refusal(tmp_path / "t.pth")


def test_half_precision_safetensors_with_metadata(tmp_path: Path, state) -> None:
    path = tmp_path / "w.safetensors"
    save_file({key: value.half() for key, value in state.items()}, path, metadata={"architecture": "plain"})
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata == {"architecture": "plain"}
    assert checkpoint.state["convs.0.weight"].dtype == torch.float32
    assert load_checkpoint(path).architecture == "plain"
