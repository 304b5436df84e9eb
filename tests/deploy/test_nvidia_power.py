"""Power, clocks and heat of GPUs, read by NVIDIA's own package from a library with its interface, and from none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import needs_compiler

DRIVER = """
#include <stdio.h>
static unsigned long long energy = 5000000;
extern "C" {
int nvmlInit_v2() { return 0; }
int nvmlInitWithFlags(unsigned) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **gpu) { *gpu = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *gpu, char *name, unsigned length) {
  snprintf(name, length, "Card %ld", (long)gpu);
  return 0;
}
const char *nvmlErrorString(int) { return "Not Supported"; }
int nvmlDeviceGetTotalEnergyConsumption(void *gpu, unsigned long long *mj) {
  if ((long)gpu != 1) return 3;
  *mj = energy += 1500;
  return 0;
}
int nvmlDeviceGetPowerUsage(void *gpu, unsigned *mw) {
  if ((long)gpu == 3) return 3;
  *mw = 70250;
  return 0;
}
int nvmlSystemGetDriverVersion(char *version, unsigned length) { snprintf(version, length, "580.1"); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *gpu, int *major, int *minor) { *major = 9; *minor = 0; return 0; }
int nvmlDeviceGetMaxClockInfo(void *gpu, unsigned kind, unsigned *mhz) { *mhz = kind == 1 ? 1980 : 2619; return 0; }
int nvmlDeviceGetClockInfo(void *gpu, unsigned kind, unsigned *mhz) { *mhz = kind == 1 ? 1755 : 2600; return 0; }
int nvmlDeviceGetEnforcedPowerLimit(void *gpu, unsigned *mw) { *mw = 700000; return 0; }
int nvmlDeviceGetTemperature(void *gpu, unsigned sensor, unsigned *c) { *c = 61; return (long)gpu == 1 ? 0 : 3; }
struct Violation { unsigned long long reference, violation; };
int nvmlDeviceGetViolationStatus(void *gpu, int policy, Violation *told) {
  static unsigned long long power = 0;
  if ((long)gpu == 3) return 3;
  told->violation = policy == 1 ? 40 : (long)gpu == 2 ? power += 1000 : 7;
  return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *gpu, unsigned long long *bits) {
  *bits = (long)gpu == 1 ? 0x44 : 0x3;
  return (long)gpu == 3 ? 3 : 0;
}
}
"""
"""Three cards: one that counts energy, one that tells power as those before Volta do, and one that tells neither."""

TELL = "from deploy.power_rails import find_rails; print([(r.name, r.counts, r.read()) for r in find_rails()])"


MACHINE = """
import json
from deploy.environment import Environment, Heat
environment, heat, later = Environment.record(), Heat.record(), Heat.record()
one, two = (Heat.model_validate({**h.model_dump(), "held_back": None, "gpus": h.gpus[1:]}) for h in (heat, later))
print(json.dumps({
    "gpus": [gpu.model_dump() for gpu in environment.gpus], "heat": [gpu.model_dump() for gpu in heat.gpus],
    "by_bits": heat.throttled_until(heat, gpus=True), "fingerprint": environment.fingerprint,
    "by_counters": [one.throttled_until(h, gpus=True) for h in (one, two)],
    "without_gpus": one.throttled_until(two, gpus=False),
    "without": environment.model_copy(update={"gpus": ()}).fingerprint,
}))
"""


def told(folder: Path, program: str = TELL) -> str:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def compiled(folder: Path) -> Path:
    """A folder with a driver's library."""
    pytest.importorskip("pynvml")
    source, library = folder / "driver.cpp", folder / "libnvidia-ml.so.1"
    source.write_text(DRIVER)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


@needs_compiler
def test_gpus_count_energy_or_tell_power_or_are_left_out(tmp_path: Path) -> None:
    found = told(compiled(tmp_path))
    # 1.5 J more each time that it is read: when it is found, and then.
    assert "('gpu0 Card 1', True, 5003.0)" in found
    assert "('gpu1 Card 2', False, 70.25)" in found
    assert "gpu2" not in found


@needs_compiler
def test_gpus_and_their_clocks_are_recorded_and_what_they_do_not_tell_is_none(tmp_path: Path) -> None:
    found = json.loads(told(compiled(tmp_path), MACHINE))
    card = {"driver": "580.1", "compute_capability": "9.0", "max_clock_mhz": 1980.0, "power_limit_w": 700.0}
    assert found["gpus"] == [{"name": f"Card {number}", **card} for number in (1, 2, 3)]
    names = ("temperature_c", "throttle_reasons", "power_violation_ns", "thermal_violation_ns")
    cards = (
        (61.0, ["power cap", "thermal slowdown by hardware"], 7, 40),
        (None, ["idle", "application clocks"], 1000, 40),
        (None, None, None, None),
    )
    clocks = {"clock_mhz": 1755.0, "memory_clock_mhz": 2600.0}
    assert found["heat"] == [clocks | dict(zip(names, card, strict=True)) for card in cards]
    assert found["by_bits"] is True
    assert found["by_counters"] == [False, True], "the second card was held back between two readings, not at either"
    assert found["without_gpus"] is False
    assert found["fingerprint"] != found["without"]


def test_without_a_driver_there_is_no_gpu(tmp_path: Path) -> None:
    """Whatever GPU this machine has, its driver is hidden by a library that is none."""
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert "gpu" not in told(tmp_path)


@needs_compiler
def test_why_nothing_is_told_of_gpus_is_told(tmp_path: Path) -> None:
    program = "from deploy.nvidia_gpus import why_silent; print(why_silent())"
    assert told(compiled(tmp_path), program) == "None"
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert told(tmp_path, program) == "NVML does not answer (NVML Shared Library Not Found); see what `nvidia-smi` says"
