"""The stages of runs on a GPU in a measurement, from real worker processes; see `fake_cuda` for the GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bitwright.foundation.errors import UsageError
from bitwright.runs.reporting import _stats
from deploy import environment
from deploy.latency import Measurement, Noise
from tests.deploy.fake_cuda import COPY_MS
from tests.deploy.test_latency_harness import loaders, quick, spin

__all__ = ["loaders"]

ROOT = str(Path(__file__).parents[2])


def test_stages_are_kept_for_each_run_and_only_of_engines_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    gpu = spin(tmp_path, "gpu", 0.2, loader="load_gpu")
    graph = replace(spin(tmp_path, "graph", 0.2, loader="load_gpu"), cuda_graph=True)
    result = quick([gpu, graph, spin(tmp_path, "cpu", 0.2)])
    assert result.measurement("cpu").gpu is None
    for name in ("gpu", "graph"):
        measurement = result.measurement(name)
        assert measurement.gpu is not None
        assert len(measurement.gpu.compute_ms) == len(measurement.samples_ms) >= 10
        assert measurement.starved_samples == 0
        summary = measurement.to_summary().gpu
        assert summary is not None
        assert (summary.to_device_ms, summary.compute_ms, summary.to_host_ms) == pytest.approx((COPY_MS, 2.0, COPY_MS))
        assert summary.graph is (name == "graph")
        assert Measurement.model_validate_json(measurement.model_dump_json()) == measurement
        told = _stats(result, name).gpu
        assert told is not None
        assert told.words.startswith("copy to the GPU 0.250 ms, computation 2.000 ms")
        assert ("CUDA graph" in told.words) is (name == "graph")
    lost = result.measurement("gpu").model_dump()
    lost["gpu"]["to_host_ms"] = lost["gpu"]["to_host_ms"][1:]
    with pytest.raises(ValueError, match="stages on the GPU and samples_ms differ in length"):
        Measurement.model_validate(lost)


def test_a_gpu_that_is_held_back_disturbs_only_sessions_with_an_engine_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    gpu = {"clock_mhz": 900.0, "memory_clock_mhz": 1.0, "temperature_c": 80.0, "throttle_reasons": ["power cap"]}
    machine = {"clock_mhz": None, "temperature_c": None, "throttle_events": None, "held_back": None, "gpus": [gpu]}
    monkeypatch.setattr(environment, "read_heat", lambda root: machine)
    cpu = spin(tmp_path, "cpu", 0.2)
    alone = quick([cpu])
    assert alone.heat_after is not None
    assert alone.heat_after.gpus[0].held_back
    assert Noise.THROTTLED not in alone.measurement("cpu").noise
    both = quick([cpu, spin(tmp_path, "gpu", 0.2, loader="load_gpu")])
    assert all(Noise.THROTTLED in measurement.noise for measurement in both.measurements)


def test_a_graph_of_an_engine_on_the_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runs on the processor; CUDA graphs are for engines that run on a GPU"):
        quick([replace(spin(tmp_path, "cpu", 0.2), cuda_graph=True)])
