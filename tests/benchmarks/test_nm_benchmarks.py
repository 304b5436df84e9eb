"""The N:M benchmarks on a small scale: deterministic arms, resumed from their files, and costs that are compared."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import nm_mask_cost, nm_methods
from benchmarks.common import NOTHING, spread
from benchmarks.nm_digits import Digits
from benchmarks.nm_recipe import Rates, Recipe
from benchmarks.nm_sr import SmallEDSR
from benchmarks.nm_tables import NO_SIGNAL, noise_of, tables_of
from benchmarks.nm_training import Arm, rate_at, train
from benchmarks.nm_vit import TinyViT
from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity


def given(folder: Path, *words: str) -> argparse.Namespace:
    return nm_methods.parser().parse_args(["--out", str(folder), "--seeds", "1", *words])


SMALL = ("--patterns", "1:8", "--methods", "dense", "ste", "one_shot", "--steps", "20")


def test_an_arm_is_a_function_of_what_it_is() -> None:
    recipe, arm = Digits(), Arm("mdgf_exponential", "1:8", 3, False, 24)
    first = train(recipe, arm)
    assert first == train(Digits(), arm)
    assert first["kept"] == pytest.approx(1 / 8)
    assert first["steps"] == 24
    assert train(recipe, Arm("ste", "1:8", 3, True, 24))["steps"] == 54
    assert first != {**train(recipe, Arm("mdgf_exponential", "1:8", 4, False, 24)), "seed": 3}


def test_the_dense_training_has_diagnostics_too() -> None:
    """Trap: the variance of gradients under a mask says little without that of the training that has none."""
    dense = train(Digits(), Arm("dense", "dense", 0, False, 24))
    assert dense["g_var"] > 0
    assert dense["v_var"] > 0
    assert (dense["kept"], dense["pruned_energy"]) == (None, 0.0)
    assert dense["nsr"] is None or dense["nsr"] > 0


def test_every_seed_sees_all_digits_in_its_own_order() -> None:
    recipe = Digits()
    images, labels, test_images, _ = recipe.data
    assert (len(images), len(labels), len(test_images)) == (1000, 1000, 797)
    pairs = recipe.pairs(0)
    epoch = [pairs[i] for i in range(1000)]
    assert torch.equal(torch.stack([x for x, _ in epoch]).sum(0), images.sum(0))
    one_by_one, at_once = Recipe.batches(recipe, 2), recipe.batches(2)
    for _ in range(20):
        for slow, fast in zip(next(one_by_one), next(at_once), strict=True):
            assert torch.equal(slow, fast)
    again, other = recipe.pairs(0), recipe.pairs(1)
    assert torch.equal(again[1234][0], pairs[1234][0])
    assert not all(torch.equal(other[i][0], epoch[i][0]) for i in range(20))


def test_arms_are_kept_and_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = nm_methods.benchmark(given(tmp_path, *SMALL))
    assert "### 1:8" in text
    work = tmp_path / "work" / "digits"
    assert len(list(work.glob("*.json"))) == 5
    monkeypatch.setattr(nm_methods, "train", lambda recipe, arm: pytest.fail(f"{arm.name} was trained again"))
    assert nm_methods.benchmark(given(tmp_path, *SMALL)) == text
    rows = json.loads((tmp_path / "digits" / "results.json").read_text())["rows"]
    dense = next(r for r in rows if r["method"] == "dense")
    ste = next(r for r in rows if r["method"] == "ste" and r["budget"] == "flops")
    assert ste["flops_algorithmic"] == pytest.approx(dense["flops_algorithmic"], rel=0.03)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        # Arms of another batch are other arms.
        nm_methods.benchmark(given(tmp_path, *SMALL, "--batch", "32"))


def test_words_that_name_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'none' is not one of"):
        nm_methods.benchmark(given(tmp_path, "--methods", "none"))
    with pytest.raises(UsageError, match="'vit' needs --data-root"):
        nm_methods.benchmark(given(tmp_path, "--recipe", "vit"))


def test_the_default_arms_are_those_of_the_comparison(tmp_path: Path) -> None:
    recipe = Digits()
    arms = nm_methods.arms_of(nm_methods.parser().parse_args([]), recipe)
    assert {a.pattern for a in arms} == {"dense", "2:4", "1:8", "1:16", "1:32"}
    assert len(arms) == len({a.name for a in arms}) == 3 * (1 + 11 * 4 * 2)
    assert {a.method for a in arms} >= {"sr_ste", "sr_ste_frozen", "mdgf_linear_ste", "sdgf_geometric"}
    # Whole seeds come first, so that a run that is stopped has compared all methods.
    assert [a.seed for a in arms] == sorted(a.seed for a in arms)


def test_sls_is_no_arm_where_it_has_nothing_to_choose(tmp_path: Path) -> None:
    words = given(tmp_path, "--methods", "sls", "one_shot", "--patterns", "2:32", "1:32")
    searched = [a.pattern for a in nm_methods.arms_of(words, Digits()) if a.method == "sls"]
    assert searched == ["2:32", "2:32"]


def test_sls_keeps_the_cost_of_the_uniform_pattern() -> None:
    found = train(Digits(), Arm("sls", "4:16", 0, False, 20))
    assert found["search_cost"] <= 4 / 16 + 1e-9
    assert found["kept"] == pytest.approx(found["search_cost"])
    assert found["search_steps"] <= 6
    assert set(found["patterns"]) == {"1", "4", "7"}
    flops = train(Digits(), Arm("sls", "4:16", 0, True, 20))
    assert flops["steps"] > 20
    assert flops["flops_algorithmic"] <= 20 * 6 * 64 * (3 * 64 * 64 + 640) * 1.02


def test_rates_rise_and_fall() -> None:
    schedule = TinyViT(Path()).schedule
    rates = [rate_at(schedule, step, 100) for step in range(100)]
    assert rates[4] == max(rates) == schedule.rate
    assert rates[0] == pytest.approx(schedule.rate / 5)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.001 * schedule.rate
    constant = replace(schedule, rates=Rates.CONSTANT)
    assert [rate_at(constant, step, 100) for step in (0, 4, 99)] == [rates[0], schedule.rate, schedule.rate]


def test_other_rates_are_other_arms_with_a_table_of_their_own(tmp_path: Path) -> None:
    words = ("--patterns", "1:8", "--methods", "ste", "--steps", "20", "--accounts", "steps")
    for rates in ("cosine", "constant"):
        assert f"{rates} learning rate" in nm_methods.benchmark(given(tmp_path, *words, "--rates", rates))
    tables = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("digits", "digits_constant")]
    assert tables[0]["rows"][0]["score"] != tables[1]["rows"][0]["score"]


def result(method: str, pattern: str, seed: int, quality: float) -> dict[str, object]:
    return {
        "method": method, "pattern": pattern, "seed": seed, "budget": "steps", "steps": 10,
        "score": {"accuracy": quality, "nll": 1.0}, "g_var": 1e-4, "v_var": None, "update_pruned": 0.0,
        "pruned_energy": 0.5, "nsr": 2.0, "nsr_pruned": None, "flops_algorithmic": 1e9, "flops_realisable": 2e9,
    }  # fmt: skip


def test_differences_to_sr_ste_are_taken_seed_by_seed() -> None:
    """Trap: seeds differ more than methods; the spread of the differences is what a claim needs."""
    rows = [result("sr_ste", "1:16", seed, 90.0 + 4 * seed) for seed in range(2)]
    rows += [result("mdgf_linear", "1:16", seed, 91.0 + 4 * seed) for seed in range(2)]
    text = tables_of(Digits(), rows)
    versus = next(line for line in text.splitlines() if line.startswith("| mdgf_linear"))
    assert "+1.00 ± 0.00" in versus
    assert "Against SR-STE" not in tables_of(Digits(), rows[2:])


def test_figures_that_are_not_known_are_not_told() -> None:
    assert noise_of([2.0, 8.0]) == "4.00e+00"
    assert noise_of([2.0, 1e26]) == NO_SIGNAL
    assert noise_of([2.0, None]) == NO_SIGNAL
    assert spread([91.234], 2) == "91.23"
    assert spread([], 2) == NOTHING


def pruned(recipe: Recipe, pattern: str) -> dict[str, str]:
    return {name: str(found) for name, found in recipe.wanted(Sparsity.parse(pattern)).items()}


@pytest.mark.data
def test_the_transformer_is_pruned_in_its_feed_forward_layers_only(data: Path, tmp_path: Path) -> None:
    recipe = TinyViT(data, images=200)
    names = [f"blocks.{block}.feed_forward.{layer}" for block in range(3) for layer in (0, 2)]
    assert pruned(recipe, "1:64") == dict.fromkeys(names, "1:64")
    layers = recipe.accounts(recipe.wanted(Sparsity.parse("1:64")))
    assert sum(layer.macs for layer in layers if layer.pattern) == 6 * 64 * 192 * 768
    words = given(tmp_path, "--recipe", "vit", "--data-root", str(data), "--images", "200", "--batch", "8",
                  "--steps", "4", "--patterns", "1:64", "--methods", "dense", "mdgf_exponential",
                  "--accounts", "steps", "--vit-patch", "8")  # fmt: skip
    text = nm_methods.benchmark(words)
    assert "### 1:64" in text
    assert "16 tokens" in text
    rows = json.loads((tmp_path / "vit" / "results.json").read_text())["rows"]
    assert [row["kept"] for row in rows] == [None, pytest.approx(1 / 64)]
    assert all(0 <= row["score"]["top1"] <= 100 for row in rows)
    assert str(data) not in (tmp_path / "vit" / "results.json").read_text()


@pytest.mark.data
def test_super_resolution_starts_from_one_dense_network_and_tells_its_gain(data: Path, tmp_path: Path) -> None:
    """Trap: methods tie where the dense network itself has learned next to nothing; the table must say so."""
    folder = tmp_path / "data"
    (folder / "sr").mkdir(parents=True)
    (folder / "sr" / "test").symlink_to(data / "sr" / "test")
    (folder / "sr" / "train" / "few").mkdir(parents=True)
    for picture in sorted((data / "sr" / "train" / "DIV2K_test_x4").glob("*.png"))[:2]:
        (folder / "sr" / "train" / "few" / picture.name).symlink_to(picture)
    words = given(tmp_path, "--recipe", "sr", "--data-root", str(folder), "--images", "1", "--batch", "2", "--steps",
                  "10", "--start-steps", "3", "--patterns", "8:32", "--methods", "dense", "one_shot", "sls",
                  "--accounts", "steps")  # fmt: skip
    text = nm_methods.benchmark(words)
    assert "dB over bicubic" in text
    assert "the comparison does not count" in text
    rows = {r["method"]: r for r in json.loads((tmp_path / "sr" / "results.json").read_text())["rows"]}
    assert rows["one_shot"]["kept"] == pytest.approx(8 / 32)
    assert rows["sls"]["kept"] <= 8 / 32 + 1e-9
    assert set(rows["dense"]["score"]) == {"Set5", "Set14"}
    starts = list((tmp_path / "work" / "sr").glob("dense-3-*.safetensors"))
    assert len(starts) == 1
    recipe = nm_methods.recipe_of(words)
    assert isinstance(recipe, SmallEDSR)
    first = recipe.start(0).state_dict()
    assert all(torch.equal(first[name], value) for name, value in recipe.start(0).state_dict().items())
    names = pruned(recipe, "1:32")
    assert "tail.0.0" in names
    assert not {"head.0", "tail.1", "sub_mean", "add_mean"} & set(names)
    assert len(names) == 2 * 8 + 2
    gained = recipe.remarks([{"method": "dense", "score": {"Set5": recipe.bicubic()["Set5"] + 2.5}}])
    assert "2.50 dB" in gained[0]
    assert "does not count" not in gained[0]


@pytest.mark.data
def test_bicubic_is_that_of_the_protocol(data: Path) -> None:
    recipe = SmallEDSR(data, Path())
    assert recipe.bicubic()["Set5"] == pytest.approx(33.67, abs=0.01)


def test_both_ways_of_making_masks_are_compared_on_the_same_weights() -> None:
    network = nn.Sequential(nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 6, 1))
    rows = nm_mask_cost.rows_of("small", network, torch.rand(1, 32, 8, 8), 1)
    assert [row["pattern"] for row in rows] == list(nm_mask_cost.PATTERNS)
    assert {row["weights"] for row in rows} == {32 * 32 * 9 + 32 * 6}
    assert all(row["step_s"] > 0 for row in rows)
