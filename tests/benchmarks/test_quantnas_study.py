"""The quality study of QuantNAS: which networks it makes, on which budgets, and what its tables say of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.common import spread
from benchmarks.quantnas_study import claim, main, units_of
from benchmarks.quantnas_study_arms import (
    ArmKind,
    Study,
    Unit,
    UnitRecord,
    bits_only,
    fixed_network,
    random_network,
)
from benchmarks.quantnas_study_tables import draw, main_table, margin_table, margins
from bitwright.foundation.errors import UsageError
from bitwright.runs.lock import FolderLock
from compress.training.processes import Processes
from search.quantnas import RetrainSettings, SearchSettings, bitops_costs, network_bitops
from workloads.super_resolution.models.searched import Genotype, load_space

ALONE = Processes(0, 1, torch.device("cpu"))
SPACE = load_space("rfdn").resized(width=12, cells=1)
SETS = ("Set14", "BSD100")


def _study(data: Path, work: Path) -> Study:
    return Study(
        space=SPACE,
        search=SearchSettings(epochs=2, steps_per_epoch=2, batch=2, patch=16, selection_batches=1),
        retrain=RetrainSettings(epochs=1, steps_per_epoch=2, batch=2, patch=16, checked_pictures=1),
        train=data / "sr" / "test" / "Set5", sets={"Set14": data / "sr" / "test" / "Set14"}, images=1, work=work,
    )  # fmt: skip


def _record(arm: ArmKind, level: float, seed: int, psnr: float, work: float) -> UnitRecord:
    genotype = fixed_network(bits_only(SPACE), 8, adq=True)
    return UnitRecord(
        arm=arm, level=level, seed=seed, budget=2e9, bitops={"32x32": work, "256x256": 64 * work}, parameters=1000,
        quality={"Set14": psnr, "BSD100": psnr - 1}, held_out=psnr, best_epoch=1, genotype=genotype, corrected=0,
        certainty=0.5, gap=0.01, search_s=1.0, retrain_s=2.0, device="cpu",
    )  # fmt: skip


def test_every_arm_has_every_seed_and_ablations_the_middle_level_only(data: Path, tmp_path: Path) -> None:
    given = argparse.Namespace(arms="", levels="8,4,6", seeds=3)
    units = units_of(given, _study(data, tmp_path))
    counts = Counter(unit.arm for unit in units)
    assert counts[ArmKind.NOISE] == counts[ArmKind.DIRECT] == counts[ArmKind.RANDOM] == counts[ArmKind.BITS] == 9
    assert counts[ArmKind.UNIFORM] == 6
    assert {unit.level for unit in units if unit.arm is ArmKind.UNIFORM} == {4.0, 8.0}
    assert {unit.level for unit in units if unit.arm is ArmKind.NO_ADQ} == {6.0}
    assert len({unit.name for unit in units}) == len(units)
    assert [unit.seed for unit in units] == sorted(unit.seed for unit in units)
    with pytest.raises(UsageError, match="did you mean noise"):
        units_of(argparse.Namespace(arms="nois", levels="4", seeds=1), _study(data, tmp_path))


def test_a_level_is_the_budget_of_the_fixed_network_at_so_many_bits(data: Path, tmp_path: Path) -> None:
    study = _study(data, tmp_path)
    for bits in (4, 8):
        assert study.budget(bits) == network_bitops(fixed_network(SPACE, bits, adq=True), 32, 32)
    assert study.budget(4) < study.budget(6) < study.budget(8)
    ends = dataclasses.replace(study, space=SPACE.with_ends(8))
    for bits in (4, 8):
        assert ends.budget(bits) == network_bitops(fixed_network(ends.space, bits, adq=True), 32, 32)
    assert study.budget(4) < ends.budget(4)
    assert study.budget(8) == ends.budget(8)
    wide = load_space("rfdn")
    macs = bitops_costs(wide, height=256, width=256).of(fixed_network(wide, 8, adq=False)) / 64
    assert macs == 21_375_221_760


def test_the_space_of_bits_has_one_operation_and_the_same_widths() -> None:
    bits = bits_only(SPACE)
    assert all(len(site.operations) == 1 for site in bits.wiring.sites)
    assert bits.bits == SPACE.bits
    assert network_bitops(fixed_network(bits, 4, adq=True), 32, 32) == network_bitops(
        fixed_network(SPACE, 4, adq=True), 32, 32
    )


def test_random_networks_are_uniform_where_the_budget_allows_and_within_it_always(data: Path, tmp_path: Path) -> None:
    table = bitops_costs(SPACE)
    loose = [random_network(SPACE, table.most + table.fixed, seed) for seed in range(40)]
    assert all(found.corrected == 0 for found in loose)
    drawn = Counter(choice for found in loose for choice in found.genotype.layers.values())
    body = [count for (token, _), count in drawn.items() if "grouped" in token]
    expected = sum(40 for site in SPACE.wiring.sites if len(site.operations) == 9) / 18
    assert len(body) == 6
    assert all(0.3 * expected < count < 1.8 * expected for count in body)
    budget = _study(data, tmp_path).budget(4)
    tight = [random_network(SPACE, budget, seed) for seed in range(5)]
    assert all(0.5 * budget < network_bitops(found.genotype, 32, 32) <= budget for found in tight)
    assert len({found.genotype.to_json() for found in tight}) == 5
    assert tight[3] == random_network(SPACE, budget, 3)


def test_a_unit_is_made_once_and_left_to_the_process_that_has_it(data: Path, tmp_path: Path) -> None:
    study, unit = _study(data, tmp_path), Unit(ArmKind.UNIFORM, 4.0, 0)
    folder = tmp_path / unit.name
    folder.mkdir(parents=True)
    other = FolderLock(folder)
    other.acquire()
    assert study.finished(unit, ALONE) is None
    other.release()
    made = study.finished(unit, ALONE)
    assert made is not None
    assert made.bitops["32x32"] == made.budget
    assert 3 < made.quality["Set14"] < 60
    assert made.certainty is None
    assert study.read(unit) == made == study.finished(unit, ALONE)
    assert not list(folder.glob("*.safetensors"))


def test_a_searched_unit_keeps_its_budget_and_says_how_certain_it_was(data: Path, tmp_path: Path) -> None:
    study, unit = _study(data, tmp_path), Unit(ArmKind.BITS, 6.0, 1)
    made = study.finished(unit, ALONE)
    assert made is not None
    assert made.bitops["32x32"] <= made.budget
    assert made.certainty is not None
    assert 0.5 <= made.certainty < 1
    assert made.gap is not None
    assert abs(made.gap) < 0.5
    assert study.read(unit) == made
    assert isinstance(made.genotype.space, type(SPACE))


def test_another_study_is_not_mixed_in(data: Path, tmp_path: Path) -> None:
    claim(_study(data, tmp_path))
    claim(_study(data, tmp_path))
    other = Study(**{**vars(_study(data, tmp_path)), "images": 2})
    with pytest.raises(UsageError, match="images differ"):
        claim(other)


RECORDS = [
    *(_record(ArmKind.NOISE, 4, seed, 28.0 + 0.1 * seed, 1.5e9) for seed in range(3)),
    *(_record(ArmKind.RANDOM, 4, seed, 27.8, 1.0e9) for seed in range(2)),
    _record(ArmKind.UNIFORM, 8, 0, 28.5, 4e9),
]


def test_tables_have_means_deviations_and_margins_on_common_seeds(tmp_path: Path) -> None:
    assert spread([1.0, 2.0, 3.0]) == "2.000 ± 1.000"
    assert spread([1.25], 2) == "1.25"
    rows = margins(RECORDS, SETS)
    assert [row["over"] for row in rows] == ["random"]
    assert rows[0]["seeds"] == [0, 1]
    assert rows[0]["margin_db"]["BSD100"] == pytest.approx([0.2, 0.3])
    assert rows[0]["bitops_ratio"] == [1.5, 1.5]
    assert "28.100 ± 0.100" in main_table(RECORDS, SETS).splitlines()[2]
    assert "0.250 ± 0.071" in margin_table(rows, SETS)
    draw(RECORDS, SETS, tmp_path / "study.png")
    with Image.open(tmp_path / "study.png") as picture:
        assert picture.size == (1656, 702)


def test_a_record_survives_json() -> None:
    record = RECORDS[0]
    again = UnitRecord.model_validate_json(record.model_dump_json(by_alias=True))
    assert again == record
    assert Genotype.from_json(again.genotype.to_json(), "text") == record.genotype


def test_a_report_trains_nothing_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data-root", str(tmp_path), "--out", str(tmp_path), "--seeds", "1", "--arms", "noise,random,uniform"]
    monkeypatch.setattr("sys.argv", ["quantnas_study", *words, "--width", "12", "--cells", "1", "--report"])
    for record in RECORDS:
        unit = Unit(record.arm, record.level, record.seed)
        path = tmp_path / "work" / unit.name / "unit.json"
        path.parent.mkdir(parents=True)
        path.write_text(record.model_dump_json(by_alias=True), encoding="utf-8")
    assert main() == 0
    assert "Unfinished: 5 networks are missing" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_bytes())
    assert results["devices"] == ["cpu"]
    assert "random/6-bit/seed-0" in results["missing"]
    assert not list(tmp_path.rglob("*.safetensors"))
