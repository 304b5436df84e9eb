"""The N:M benchmarks on a small scale: deterministic arms, resumed from their files, and costs that are compared."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import nm_mask_cost, nm_methods
from benchmarks.nm_digits import Arm, data, train
from bitwright.foundation.errors import UsageError


def given(folder: Path, **more: object) -> argparse.Namespace:
    settings = {"out": folder, "patterns": ["1:8"], "methods": ["dense", "ste", "one_shot"], "seeds": 1, "steps": 20}
    return argparse.Namespace(**{**settings, **more})


def test_an_arm_is_a_function_of_what_it_is() -> None:
    arm = Arm("mdgf_exponential", "1:8", 3, False, 24)
    first = train(arm)
    assert first == train(arm)
    assert first["kept"] == pytest.approx(1 / 8)
    assert first["steps"] == 24
    assert first["nsr"] is None or first["nsr"] > 0
    assert train(Arm("ste", "1:8", 3, True, 24))["steps"] == 54
    images, labels, test_images, _ = data()
    assert (len(images), len(labels), len(test_images)) == (1000, 1000, 797)


def test_arms_are_kept_and_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = nm_methods.benchmark(given(tmp_path))
    assert "### 1:8" in text
    assert len(list((tmp_path / "arms").glob("*.json"))) == 5
    monkeypatch.setattr(nm_methods, "train", lambda arm: pytest.fail(f"{arm.name} was trained again"))
    assert nm_methods.benchmark(given(tmp_path)) == text
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    dense = next(r for r in rows if r["method"] == "dense")
    ste = next(r for r in rows if r["method"] == "ste" and r["budget"] == "flops")
    assert ste["flops_algorithmic"] == pytest.approx(dense["flops_algorithmic"], rel=0.03)
    with pytest.raises(UsageError, match="'none' is not one of"):
        nm_methods.benchmark(given(tmp_path, methods=["none"]))


def test_noise_without_a_signal_is_not_told_as_a_figure() -> None:
    assert nm_methods._noise([2.0, 8.0]) == "4.00e+00"
    assert nm_methods._noise([2.0, 1e26]) == nm_methods.NO_SIGNAL
    assert nm_methods._noise([None]) == "n/a"


def test_both_ways_of_making_masks_are_compared_on_the_same_weights() -> None:
    network = nn.Sequential(nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 6, 1))
    rows = nm_mask_cost.rows_of("small", network, torch.rand(1, 32, 8, 8), 1)
    assert [row["pattern"] for row in rows] == list(nm_mask_cost.PATTERNS)
    assert {row["weights"] for row in rows} == {32 * 32 * 9 + 32 * 6}
    assert all(row["step_s"] > 0 for row in rows)
