"""The environment record and its fingerprint."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from bitwright.foundation import progress
from deploy.environment import Environment, Heat, machine_differences, same_machine
from tests.listener import Listener

CPUINFO = """processor\t: 0
model name\t: Imaginary 9000
cpu MHz\t\t: 2000.5
flags\t\t: fpu avx2 avx512_vnni amx_int8 hypervisor madeup

processor\t: 1
model name\t: Imaginary 9000
cpu MHz\t\t: 3000.5
flags\t\t: fpu
"""


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


def test_core_counts_and_memory_are_those_that_psutil_reads() -> None:
    environment = Environment.record()
    assert environment.memory_bytes == psutil.virtual_memory().total
    assert environment.physical_cores == psutil.cpu_count(logical=False)
    assert environment.physical_cores is not None


def test_a_record_without_core_kinds_keeps_its_fingerprint(machine: Path) -> None:
    before = Environment.record(machine)
    old = {name: value for name, value in before.model_dump().items() if name != "core_kinds"}
    assert Environment.model_validate(old).fingerprint == before.fingerprint
    mixed = before.model_copy(update={"core_kinds": {"0x41/0xd03": (0,), "0x41/0xd08": (1,)}})
    assert mixed.fingerprint != before.fingerprint
    assert [phrase.partition(":")[0] for phrase in machine_differences(before, mixed)] == ["core_kinds"]


def test_big_and_little_cores_are_told_apart(machine: Path) -> None:
    parts = ("0xd03", "0xd03", "0xd08")
    blocks = [f"processor : {n}\nCPU implementer : 0x41\nCPU part : {part}\n" for n, part in enumerate(parts)]
    (machine / "proc/cpuinfo").write_text("\n".join(blocks))
    assert Environment.record(machine).core_kinds == {"0x41/0xd03": (0, 1), "0x41/0xd08": (2,)}
    for name, cores in (("cpu_core", "0-3,8"), ("cpu_atom", "4-7")):
        (machine / "sys/devices" / name).mkdir()
        (machine / "sys/devices" / name / "cpus").write_text(cores + "\n")
    assert Environment.record(machine).core_kinds == {"cpu_core": (0, 1, 2, 3, 8), "cpu_atom": (4, 5, 6, 7)}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_heat_is_read_from_the_sensors_of_the_processor(machine: Path) -> None:
    assert Heat.record(machine).temperature_c is None
    assert Heat.record(machine).held_back is None
    write(machine / "sys/class/hwmon/hwmon0/name", "nvme")
    write(machine / "sys/class/hwmon/hwmon0/temp1_input", "80000")
    assert Heat.record(machine).temperature_c == 80.0
    write(machine / "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    write(machine / "sys/class/thermal/thermal_zone0/temp", "61250")
    assert Heat.record(machine).temperature_c == 61.25


def test_a_machine_that_slows_itself_down_is_told(machine: Path) -> None:
    cpu = machine / "sys/devices/system/cpu"
    for core in ("cpu0", "cpu1"):
        write(cpu / core / "thermal_throttle/core_throttle_count", "3")
    write(machine / "sys/class/thermal/cooling_device0/type", "Processor")
    write(machine / "sys/class/thermal/cooling_device0/cur_state", "0")
    before = Heat.record(machine)
    assert before.throttle_events == 6
    assert before.held_back is False
    assert not before.throttled_until(Heat.record(machine), gpus=False)
    write(cpu / "cpu1/thermal_throttle/core_throttle_count", "4")
    assert before.throttled_until(Heat.record(machine), gpus=False)
    quiet = Heat.record(machine)
    write(machine / "sys/devices/platform/soc/soc:firmware/get_throttled", "50000")
    assert not quiet.throttled_until(Heat.record(machine), gpus=False), "bits above 3 tell of the past"
    write(machine / "sys/devices/platform/soc/soc:firmware/get_throttled", "50004")
    assert quiet.throttled_until(Heat.record(machine), gpus=False)
    write(cpu / "cpu0/cpufreq/cpuinfo_max_freq", "3000000")
    write(cpu / "cpu0/cpufreq/scaling_max_freq", "2000000")
    (machine / "sys/devices/platform/soc/soc:firmware/get_throttled").unlink()
    assert Heat.record(machine).held_back is True


def test_a_gpu_that_was_held_back_counts_where_something_ran_on_it(machine: Path) -> None:
    told = {"clock_mhz": 1.0, "memory_clock_mhz": 1.0, "temperature_c": 60.0, "throttle_reasons": ("idle",)}
    idle = Heat.record(machine).model_dump() | {"gpus": [told]}

    def heat(**changed: object) -> Heat:
        return Heat.model_validate({**idle, "gpus": [told | changed]})

    old = Heat.model_validate(idle)
    assert not old.throttled_until(heat(power_violation_ns=5), gpus=True), "records of before tell no counts"
    before = heat(power_violation_ns=5, thermal_violation_ns=9)
    for after, seen in (
        (before, False),
        (heat(power_violation_ns=6, thermal_violation_ns=9), True),
        (heat(power_violation_ns=5, thermal_violation_ns=10), True),
        (heat(power_violation_ns=0, thermal_violation_ns=0), False),
        (heat(power_violation_ns=1, thermal_violation_ns=0), True),
        (heat(throttle_reasons=("power cap",)), True),
    ):
        assert before.throttled_until(after, gpus=True) is seen
        assert before.throttled_until(after, gpus=False) is False


def test_an_emulator_in_user_space_is_seen_and_tells_two_machines_apart(machine: Path) -> None:
    before = Environment.record(machine)
    assert before.emulator is None
    (machine / "proc/self").mkdir()
    (machine / "proc/self/comm").write_text("qemu-aarch64-st\n")
    emulated = Environment.record(machine)
    assert emulated.emulator == f"qemu-{emulated.architecture}"
    assert [d.partition(":")[0] for d in machine_differences(before, emulated)] == ["emulator"]
    assert Environment.record().emulator is None


def test_an_arm_program_that_reads_an_x86_processor_is_emulated(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = machine / "proc/cpuinfo"
    info.write_text("vendor_id\t: GenuineIntel\n" + info.read_text())
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert Environment.record(machine).emulator == "unknown"
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert Environment.record(machine).emulator is None
