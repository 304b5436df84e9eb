"""CPU time read from the system agrees with psutil, which reads it in its own way."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from deploy.latency import processor_time


def test_the_machine_s_time_lies_between_two_readings_of_psutil() -> None:
    def busy() -> float:
        times = psutil.cpu_times()
        return float(sum(getattr(times, name) for name in ("user", "system", "nice", "irq", "softirq", "steal")))

    before, found, after = busy(), processor_time.of_machine(), busy()
    assert before - 0.05 <= found <= after + 0.05


def test_the_time_of_a_process_is_what_it_spent() -> None:
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert processor_time.of_process(child.pid) == pytest.approx(0.3, abs=0.1)
        child.kill()
    with pytest.raises(ProcessLookupError, match=str(child.pid)):
        processor_time.of_process(child.pid)


def test_this_process_is_read_like_any_other() -> None:
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert processor_time.of_process(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)
