"""Power rails: found in files as kernels write them, integrated, and told apart from the idle machine."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitwright.foundation.errors import UsageError
from deploy.latency import LoadGate, WarmUp, harness
from deploy.latency.energy import Energy
from deploy.power_rails import EnergyMeter, Rail, energy_pass, find_rails, require_rails
from deploy.remote import Results
from tests.deploy.bundle_helpers import make_bundle


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content + "\n")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    rapl, hwmon = tmp_path / "sys/class/powercap", tmp_path / "sys/class/hwmon"
    write(rapl / "intel-rapl", enabled="1")
    write(rapl / "intel-rapl:0", name="package-0", energy_uj="2500000", max_energy_range_uj="262143328850")
    write(rapl / "intel-rapl:0:1", name="dram", energy_uj="1000000", max_energy_range_uj="65712999613")
    write(hwmon / "hwmon0", name="ina3221", in1_label="VDD_IN", in1_input="5000", curr1_input="1200", in2_input="12000",
          curr2_input="250")  # fmt: skip
    write(hwmon / "hwmon1", name="ina226", power1_input="4200000", in1_input="5000", curr1_input="840")
    write(hwmon / "hwmon2", name="amd_energy", energy1_input="7000000", energy1_label="Esocket0")
    write(hwmon / "hwmon3", name="coretemp", temp1_input="45000")
    write(hwmon / "hwmon4", name="broken", power1_input="")
    return tmp_path


def test_counters_and_sensors_are_found_in_their_units(machine: Path) -> None:
    told = {rail.name: (round(rail.read(), 6), rail.counts) for rail in find_rails(machine)}
    assert told == {
        "package-0": (2.5, True),
        "package-0/dram": (1.0, True),
        "ina3221 VDD_IN": (6.0, False),
        "ina3221 in2": (3.0, False),
        "ina226 power1": (4.2, False),
        "amd_energy Esocket0": (7.0, True),
    }
    assert {rail.name: rail.wraps for rail in find_rails(machine)}["package-0"] == pytest.approx(262143.32885)


def test_a_machine_that_tells_nothing_is_refused_with_the_reason(tmp_path: Path) -> None:
    assert find_rails(tmp_path) == []
    with pytest.raises(UsageError, match="rails are not there: no energy counter, power sensor or telling GPU; leave"):
        require_rails(tmp_path)
    write(tmp_path / "sys/class/powercap/intel-rapl:0", name="package-0", energy_uj="hidden")
    with pytest.raises(UsageError, match="may be read by root only; leave --energy out"):
        require_rails(tmp_path)


def test_a_counter_that_begins_anew_loses_nothing() -> None:
    values = itertools.chain([98.0, 99.0, 1.0, 2.0], itertools.repeat(3.0))
    with EnergyMeter([Rail("package", lambda: next(values), counts=True, wraps=100.0)]) as meter:
        time.sleep(0.15)
    assert meter.joules["package"] == pytest.approx(5.0)


def test_power_is_integrated_over_time_and_a_reading_that_fails_is_bridged() -> None:
    readings = itertools.count()

    def watts() -> float:
        if next(readings) % 3 == 1:
            raise OSError("the bus is busy")
        return 8.0

    with EnergyMeter([Rail("board", watts, counts=False)]) as meter:
        time.sleep(0.2)
    assert meter.seconds >= 0.2
    assert meter.joules["board"] == pytest.approx(8.0 * meter.seconds)


def test_what_an_engine_takes_is_told_above_the_idle_machine() -> None:
    busy: list[float] = [2.0]

    def block(watts: float, runs: int) -> int:
        busy[0] = watts
        time.sleep(0.02)
        busy[0] = 2.0
        return runs

    rails = [Rail("board", lambda: busy[0], counts=False)]
    blocks = {"engine": lambda: block(6.0, 4), "float": lambda: block(12.0, 1)}
    energy = Energy.model_validate(energy_pass(rails, blocks, 0.4))
    assert energy.idle_watts["board"] == pytest.approx(2.0)
    assert energy.arms["engine"].runs % 4 == 0
    per_run = {name: energy.arms[name].seconds / energy.arms[name].runs for name in blocks}
    assert energy.millijoules("engine", "board") == pytest.approx(1e3 * 4.0 * per_run["engine"], rel=0.2)
    assert energy.millijoules("float", "board") == pytest.approx(1e3 * 10.0 * per_run["float"], rel=0.2)
    assert energy.watts("float", "board") == pytest.approx(12.0, rel=0.2)
    assert energy.lines()[0].startswith("energy of a run above idle (2 W) on board: engine ")


def test_the_harness_measures_energy_after_its_rounds(
    monkeypatch: pytest.MonkeyPatch, quantized_file: Path, float_file: Path, tmp_path: Path
) -> None:
    make_bundle(tmp_path, quantized_file, float_file)
    candidates = [harness.Candidate(name, tmp_path / name) for name in ("engine", "float")]
    settings = {
        "input_shape": (1, 3, 24, 32), "min_seconds": 0.0, "min_samples": 10, "block_seconds": 0.01,
        "warm_up": WarmUp(min_runs=4, min_seconds=0.0, max_seconds=0.2),
        "gate": LoadGate(wait_seconds=0.0, window_seconds=0.05),
    }  # fmt: skip
    assert harness.measure(candidates, **settings).energy is None  # type: ignore[arg-type]
    monkeypatch.setattr(harness, "require_rails", lambda: [Rail("meter", lambda: 3.0 * time.perf_counter(), True)])
    energy = harness.measure(candidates, energy_seconds=0.2, **settings).energy  # type: ignore[arg-type]
    assert energy is not None
    assert energy.idle_watts["meter"] == pytest.approx(3.0, rel=0.01)
    assert list(energy.arms) == ["engine", "float"]
    for name in energy.arms:
        assert energy.arms[name].seconds >= 0.2
        assert energy.watts(name, "meter") == pytest.approx(3.0, rel=0.01)


COUNTING = """
mount -t tmpfs tmpfs /sys/class && mkdir -p /sys/class/powercap/intel-rapl:0 && cd /sys/class/powercap/intel-rapl:0
echo package-0 > name; echo 0 > energy_uj
(count=0; while sleep 0.005; do count=$((count + 50000)); echo $count > next; mv next energy_uj; done) &
counter=$!; cd /; "$@"; code=$?; kill $counter; exit $code
"""


def test_a_bundle_measures_energy_where_the_machine_tells_it(
    quantized_file: Path, float_file: Path, tmp_path: Path
) -> None:
    """In a mount namespace in which the machine has a counter that runs."""
    bundle = make_bundle(tmp_path, quantized_file, float_file, energy_seconds=0.3)
    apart = ["unshare", "--mount", "sh", "-c", COUNTING, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode != 0:
        pytest.skip("no other /sys can be mounted here")
    command = [sys.executable, str(bundle.file), "--out", str(tmp_path / "out")]
    ended = subprocess.run([*apart, *command], capture_output=True, text=True, timeout=120, check=False, cwd="/")
    assert ended.returncode == 0, ended.stderr
    assert "measuring energy, engine by engine" in ended.stdout
    energy = Results.read(tmp_path / "out").comparison(bundle.manifest).energy
    assert energy is not None
    assert 1.0 < energy.idle_watts["package-0"] < 10.0
    assert all(energy.arms[name].joules["package-0"] > 0.1 for name in ("engine", "float"))


def test_a_bundle_that_cannot_measure_energy_says_so(quantized_file: Path, float_file: Path, tmp_path: Path) -> None:
    if find_rails():
        pytest.skip("this machine has power rails")
    bundle = make_bundle(tmp_path, quantized_file, float_file, energy_seconds=0.3)
    ended = subprocess.run(
        [sys.executable, str(bundle.file), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120, check=False, cwd="/",
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: energy cannot be measured on this machine")
