"""Power of GPUs, read by NVIDIA's own Python package from a library with its interface, and from none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
}
"""
"""Three cards: one that counts energy, one that tells power as those before Volta do, and one that tells neither."""

TELL = "from deploy.power_rails import find_rails; print([(r.name, r.counts, r.read()) for r in find_rails()])"


def told(folder: Path) -> str:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", TELL], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_gpus_count_energy_or_tell_power_or_are_left_out(tmp_path: Path) -> None:
    pytest.importorskip("pynvml")
    source, library = tmp_path / "driver.cpp", tmp_path / "libnvidia-ml.so.1"
    source.write_text(DRIVER)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    found = told(tmp_path)
    # 1.5 J more each time that it is read: when it is found, and then.
    assert "('gpu0 Card 1', True, 5003.0)" in found
    assert "('gpu1 Card 2', False, 70.25)" in found
    assert "gpu2" not in found


def test_without_a_driver_there_is_no_gpu(tmp_path: Path) -> None:
    """Whatever GPU this machine has, its driver is hidden by a library that is none."""
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert "gpu" not in told(tmp_path)
