"""A search on real pictures, small."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bitwright.foundation.errors import CheckpointError, UsageError
from compress.training.processes import Processes
from compress.training.state import load_state
from search.quantnas import Derivation, bitops_costs, derive_within
from search.quantnas.data_split import Split, split_by_picture
from search.quantnas.footprint import footprint
from search.quantnas.presets import PRESETS, preset
from search.quantnas.retrain import retrain
from search.quantnas.search import STATE, Search
from search.quantnas.settings import RetrainSettings, SearchSettings
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.searched import Genotype, load_space
from workloads.super_resolution.training_data import PatchDataset

ALONE = Processes(0, 1, torch.device("cpu"))
SPACE = load_space("basic").resized(width=6, cells=1)
SETTINGS = SearchSettings(
    epochs=3, warm_up=1, steps_per_epoch=3, batch=2, patch=12, alpha_rate=0.05, penalty=1e-3, log_every=1,
    save_seconds=0.0,
)  # fmt: skip


def _patches(data: Path, patch: int = 12) -> PatchDataset:
    return PatchDataset([data / "sr" / "test" / "Set5"], SRFormat(4, Color.RGB, 1.0), patch, 2**62, 0)


@pytest.fixture(scope="module")
def split(data: Path) -> Split:
    return split_by_picture(_patches(data), 0.7, 777)


def _search(split: Split, path: Path | None = None, **changes: object) -> Search:
    return Search(SPACE, bitops_costs(SPACE), split, dataclasses.replace(SETTINGS, **changes), ALONE, path)


def test_parts_have_no_picture_in_common_and_depend_on_the_seed_alone(data: Path) -> None:
    patches = _patches(data)
    first, again = (split_by_picture(patches, 0.7, 5) for _ in range(2))
    assert first.pictures == again.pictures
    numbers = [n for part in first.pictures.values() for n in part]
    assert sorted(numbers) == [0, 1, 2, 3, 4]
    assert len(first.pictures["selection"]) >= 1
    assert torch.equal(first.weights[3][0], again.weights[3][0])
    assert not torch.equal(first.weights[3][0], first.architecture[3][0])
    with pytest.raises(UsageError, match="too few"):
        split_by_picture(patches.part([0, 1], 0), 0.7, 0)


def test_patches_of_an_epoch_are_counted_as_the_paper_cuts_them(data: Path) -> None:
    baby = _patches(data).part([0], 0)
    assert baby.patches_at(200, 70) == ((512 - 200) // 70 + 1) ** 2


def test_architecture_waits_for_the_warm_up_and_then_moves(split: Split) -> None:
    found = _search(split).run()
    one = found.alphas["tail_0"]
    assert one.shape == (4, 3, 2)
    assert torch.equal(one[0], torch.full((3, 2), 1 / 6))
    assert torch.equal(one[1], one[0])
    assert not torch.allclose(one[3], one[0], atol=1e-3)
    assert [("architecture" in e) for e in found.history] == [False] * 3 + [True] * 6
    assert found.history[0]["cost"] == pytest.approx(bitops_costs(SPACE).uniform())
    assert found.cost == bitops_costs(SPACE).of(found.genotype)
    assert all(e["selection"] > 0 for e in found.history[2::3])


def test_resumed_search_ends_where_the_uninterrupted_one_does(split: Split, tmp_path: Path) -> None:
    whole = _search(split)
    wanted = whole.run()

    class StopError(Exception):
        pass

    def stop(entry: dict[str, float]) -> None:
        if entry["step"] == 5:
            raise StopError

    with pytest.raises(StopError):
        Search(SPACE, bitops_costs(SPACE), split, SETTINGS, ALONE, tmp_path / STATE, stop).run()
    position, _ = load_state(tmp_path / STATE, whole.position.fingerprint)
    assert position.step == 4
    resumed = _search(split, tmp_path / STATE)
    found = resumed.run()
    assert found.genotype == wanted.genotype
    assert all(torch.equal(found.alphas[name], wanted.alphas[name]) for name in wanted.alphas)
    for name, value in resumed.net.state_dict().items():
        assert torch.equal(value, whole.net.state_dict()[name]), name
    with pytest.raises(UsageError, match="another space, cost, settings or pictures"):
        _search(split, tmp_path / STATE, penalty=0.5).run()
    (tmp_path / STATE).write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="damaged"):
        _search(split, tmp_path / STATE).run()


def test_a_search_that_has_ended_stands_at_its_last_temperature(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"temperature": (4.0, 0.05), "derivation": Derivation.MARGINAL}
    search = _search(split, tmp_path / STATE, **changes)
    wanted = search.run()
    assert search.net.temperature == pytest.approx(0.05)

    def unwanted(*_: object) -> None:
        raise AssertionError("no step is left that a footprint would be told of")

    monkeypatch.setattr("search.quantnas.search.footprint", unwanted)
    again = _search(split, tmp_path / STATE, **changes)
    found = again.run()
    assert (found.genotype, found.expected) == (wanted.genotype, wanted.expected)
    last = {name: records[-1].flatten() for name, records in found.alphas.items()}
    assert all(torch.equal(again._probabilities(name), one) for name, one in last.items())


def test_killed_search_gives_the_same_genotype(split: Split, data: Path, tmp_path: Path) -> None:
    wanted = _search(split).run()
    script = tmp_path / "job.py"
    script.write_text(
        "import importlib.util, sys\nfrom pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('job', {str(Path(__file__).resolve())!r})\n"
        "job = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(job)\n"
        f"split = job.split_by_picture(job._patches(Path({str(data)!r})), 0.7, 777)\n"
        f"found = job._search(split, Path({str(tmp_path / STATE)!r})).run()\n"
        f"found.genotype.save(Path({str(tmp_path / 'g.json')!r}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen([sys.executable, str(script)], env=environment)
    end = time.monotonic() + 120
    while not (tmp_path / STATE).exists() and time.monotonic() < end and job.poll() is None:
        time.sleep(0.005)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert (tmp_path / STATE).exists()
    assert not (tmp_path / "g.json").exists(), "it was killed before its end"
    subprocess.run([sys.executable, str(script)], env=environment, check=True, timeout=120)
    assert Genotype.load(tmp_path / "g.json") == wanted.genotype


def test_budget_is_met_and_an_impossible_one_is_refused_at_once(split: Split) -> None:
    table = bitops_costs(SPACE)
    budget = table.least * 1.6
    found = _search(split, budget=budget, dual_rate=0.05).run()
    assert found.cost <= budget
    assert found.history[-1]["penalty"] > found.history[3]["penalty"] > 0
    assert found.penalty > found.history[-1]["penalty"]
    mixture = sum(float((found.alphas[s.shared.replace(".", "_")][-1] * table.costs[s.name]).sum())
                  for s in SPACE.wiring.sites)  # fmt: skip
    assert found.expected == pytest.approx(mixture, rel=1e-5)
    with pytest.raises(UsageError, match="cheapest costs"):
        _search(split, budget=table.least * 0.9)


def test_a_budget_with_marginal_derivation_gives_the_marginal_network_within_it(split: Split) -> None:
    table = bitops_costs(SPACE)
    budget = 0.5 * (table.least + table.uniform())
    job = _search(split, budget=budget, derivation=Derivation.MARGINAL, alpha_rate=0.3, dual_rate=1e-9)
    found = job.run()
    logits = job.net.scaled_logits()
    assert found.cost <= budget
    assert found.genotype == derive_within(SPACE, logits, table, budget, adq=True, how=Derivation.MARGINAL)[0]


def test_a_search_and_a_training_in_half_precision_learn_and_keep_float_weights(data: Path, split: Split) -> None:
    job = _search(split, amp=True)
    seen = set()
    job.net.register_forward_hook(lambda _, __, made: seen.add(made.dtype))
    found = job.run()
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in job.net.parameters()} == {torch.float32}
    whole = _search(split).run()
    assert found.history[0]["train"] == pytest.approx(whole.history[0]["train"], rel=0.05)
    assert found.history[0]["train"] != whole.history[0]["train"]
    settings = RetrainSettings(
        epochs=3, steps_per_epoch=25, batch=2, patch=12, rate=3e-3, log_every=1, save_seconds=0.0, amp=True
    )
    genotype = Genotype.uniform(load_space("basic").resized(width=12, cells=1), "simple_3x3", 8, adq=True)
    made = retrain(genotype, _patches(data), settings, score=lambda _: 0.0, processes=ALONE)
    assert sum(e["train"] for e in made.history[-10:]) < 0.8 * sum(e["train"] for e in made.history[:10])


def test_weight_step_takes_no_part_of_the_cost_and_alpha_step_moves_no_weight(split: Split) -> None:
    search = _search(split)
    before = {n: p.detach().clone() for n, p in search.net.named_parameters()}
    batch = (torch.rand(2, 3, 12, 12), torch.rand(2, 3, 48, 48))
    search._alpha_step(batch, epoch=2)
    moved = {n for n, p in search.net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(search.logits)
    logits = {n: p.detach().clone() for n, p in search.logits.items()}
    search._weight_step(batch, 9)
    assert all(torch.equal(p, logits[n]) for n, p in search.logits.items())
    assert all(p.grad is None or not p.requires_grad for p in search.logits.values())


def test_footprint_grows_with_the_batch_and_refuses_what_does_not_fit(split: Split) -> None:
    net = _search(split).net
    before = {n: v.clone() for n, v in net.state_dict().items()}
    one = footprint(net, split.weights[0], SETTINGS, 1)
    many = footprint(net, split.weights[0], SETTINGS, 8)
    assert many.bytes > 5 * one.bytes / 2
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
    with pytest.raises(UsageError, match=r"does not fit: .* GiB"):
        dataclasses.replace(many, free=many.bytes - 1).check()


def test_presets_have_the_papers_figures() -> None:
    a, b = PRESETS["paper-a"], PRESETS["paper-b"]
    assert (a.search.epochs, a.search.warm_up, a.search.batch, a.search.patch) == (20, 0, 32, 45)
    assert (b.search.warm_up, b.search.alpha_betas, b.search.weight_decay) == (9, (0.5, 0.999), 3e-8)
    assert (b.sized_space().width, b.sized_space().cells, b.sized_space().bits) == (48, 4, (4, 8))
    assert a.retrain.rate == 1e-4
    with pytest.raises(UsageError, match="did you mean smoke"):
        preset("smok")
