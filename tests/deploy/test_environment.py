"""The environment record and its fingerprint."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from bitwright.foundation import progress
from deploy.environment import Environment, machine_differences, same_machine

CPUINFO = """processor\t: 0
model name\t: Imaginary 9000
cpu MHz\t\t: 2000.5
flags\t\t: fpu avx2 avx512_vnni amx_int8 hypervisor madeup

processor\t: 1
model name\t: Imaginary 9000
cpu MHz\t\t: 3000.5
flags\t\t: fpu
"""


class Listener:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, description: str, total: int | None) -> int:
        return 0

    def advance(self, handle: int, steps: int = 1) -> None:
        return None

    def stop(self, handle: int) -> None:
        return None

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    cpu = tmp_path / "sys/devices/system/cpu"
    for core, governor in (("cpu0", "performance"), ("cpu1", "powersave")):
        (cpu / core / "cpufreq").mkdir(parents=True)
        (cpu / core / "cpufreq/scaling_governor").write_text(governor + "\n")
    (cpu / "intel_pstate").mkdir()
    (cpu / "intel_pstate/no_turbo").write_text("1\n")
    (cpu / "smt").mkdir()
    (cpu / "smt/active").write_text("1\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO)
    return tmp_path


def test_cpu_facts_and_power_switches_are_read(machine: Path) -> None:
    environment = Environment.record(machine)
    assert environment.cpu_model == "Imaginary 9000"
    assert environment.cpu_flags == ("amx_int8", "avx2", "avx512_vnni")
    assert environment.virtual_machine is True
    assert environment.governor == "performance, powersave"
    assert environment.boost is False
    assert environment.smt is True
    assert environment.clock_mhz == pytest.approx(2500.5)


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    environment = Environment.record(tmp_path)
    assert environment.governor is None
    assert environment.boost is None
    assert environment.smt is None
    assert environment.virtual_machine is None
    assert environment.clock_mhz is None
    assert environment.cpu_flags == ()
    assert environment.cpu_model


def test_this_machine_and_its_libraries_are_recorded() -> None:
    environment = Environment.record()
    assert environment.libraries["numpy"] == metadata.version("numpy")
    assert environment.libraries["torch"].startswith("2.13.0")
    assert environment.command == tuple(sys.argv)
    assert 1 <= environment.usable_cores <= environment.logical_cores
    assert environment.memory_bytes > 1 << 28


def test_json_round_trip_keeps_the_fingerprint() -> None:
    environment = Environment.record()
    again = Environment.model_validate_json(environment.model_dump_json())
    assert again == environment
    assert again.fingerprint == environment.fingerprint
    assert len(environment.fingerprint) == 16


def test_load_clock_and_command_do_not_change_the_fingerprint() -> None:
    environment = Environment.record()
    later = environment.model_copy(
        update={
            "load_average": (9.0, 9.0, 9.0),
            "clock_mhz": 1.0,
            "command": ("other",),
            "memory_bytes": environment.memory_bytes - 4096,
        }
    )
    assert later.fingerprint == environment.fingerprint
    assert same_machine(environment, later)


@pytest.mark.parametrize(
    "change",
    [
        {"cpu_model": "another"},
        {"usable_cores": 999},
        {"libraries": {"onnxruntime": "0.1"}},
        {"memory_bytes": 1 << 45},
        {"governor": "ondemand"},
    ],
)
def test_all_that_decides_speed_changes_the_fingerprint_and_is_named(change: dict[str, object]) -> None:
    environment = Environment.record()
    other = environment.model_copy(update=change)
    assert other.fingerprint != environment.fingerprint
    differences = machine_differences(environment, other)
    assert [difference.partition(":")[0] for difference in differences] == list(change)
    listener = Listener()
    with progress.reporting_to(listener):
        assert not same_machine(environment, other)
    assert len(listener.notes) == 1
    assert next(iter(change)) in listener.notes[0]
