"""The study of elastic supernets in super-resolution: what it trains, keeps and tells."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.eqnet_study_sr import SETS, WIDTHS, Arm, Read, study_of, table
from bitwright.foundation.errors import UsageError
from compress.training.processes import processes


def _given(data: Path, out: Path, **changes: object) -> argparse.Namespace:
    values = {"data_root": data, "network": "fsrcnn_x4", "images": 1, "steps": 1, "out": out, **changes}
    return argparse.Namespace(**values)


@pytest.mark.long
def test_arms_start_from_the_same_network_and_are_kept(data: Path, tmp_path: Path) -> None:
    study = study_of(_given(data, tmp_path))
    exact = study.scores(study.loaded.module)
    with processes() as group:
        found = {arm: study.read(arm, 0, group) for arm in (Arm.SUPERNET, Arm.DEDICATED, Arm.ROUNDED)}
        files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
        assert len(files) == 3
        assert study.read(Arm.SUPERNET, 0, group) == found[Arm.SUPERNET]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == files
    for arm, read in found.items():
        for name in SETS:
            drops = [exact[name] - read.quality[bits][name] for bits in WIDTHS]
            assert drops[-1] > 1.0, "4 bits hurt this network"
            # The first step of a supernet throws the network off by far more than 8 bits differ from 6.
            assert arm is Arm.SUPERNET or drops == sorted(drops)
    # One step of a training changes next to nothing, so each is near to where it began.
    for bits in (8, 6):
        assert found[Arm.DEDICATED].quality[bits]["Set14"] == pytest.approx(
            found[Arm.ROUNDED].quality[bits]["Set14"], abs=0.3
        )
    assert found[Arm.ROUNDED].seconds == 0.0
    assert found[Arm.DEDICATED].seconds > 0.0


def test_another_task_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no_such"):
        study_of(_given(data, tmp_path, network="no_such"))


def test_the_table_has_means_and_deviations_of_seeds() -> None:
    def read(arm: Arm, seed: int, psnr: float) -> Read:
        return Read(arm=arm, seed=seed, seconds=90.0, quality={b: dict.fromkeys(SETS, psnr - b) for b in WIDTHS})

    reads = [read(Arm.SUPERNET, 0, 30.0), read(Arm.SUPERNET, 1, 31.0), read(Arm.ROUNDED, 0, 29.0)]
    lines = table(reads, SETS, dict.fromkeys(SETS, 33.0)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["float", "supernet", "rounded"]
    assert "22.500 ± 0.707" in lines[3]
    assert lines[3].rstrip().endswith("1.5 |")
