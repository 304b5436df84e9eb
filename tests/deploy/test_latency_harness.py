"""Engines timed in real worker processes: ratios, order of blocks, warm-up, noise, and what is recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bitwright.foundation.errors import UsageError
from deploy.latency import Candidate, Clock, ComparisonResult, LoadGate, Noise, Verdict, WarmUp, measure
from deploy.latency.foreign_load import CpuReading
from deploy.latency.measurement import Measurement

SHAPE = (1, 1, 4, 4)
TRACE = "trace"
SPIN_MS = {"one": 2.0, "three": 6.0, "twin": 2.0}
NO_WAIT = LoadGate(wait_seconds=0.0, window_seconds=0.05)
BRIEF = WarmUp(min_runs=4, min_seconds=0.0, max_seconds=0.3)


@pytest.fixture(autouse=True)
def loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def spin(folder: Path, name: str, spin_ms: float, loader: str = "load_spin", **settings: object) -> Candidate:
    place = folder / name
    place.mkdir()
    (place / "spin.json").write_text(json.dumps({"spin_ms": spin_ms, **settings}))
    return Candidate(name, place, loader=f"latency_engines:{loader}")


def conv(folder: Path, name: str, channels: int) -> Candidate:
    place = folder / name
    place.mkdir()
    weight = np.random.default_rng(0).normal(size=(channels, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(place / "model.onnx"))
    return Candidate(name, place, loader="latency_engines:load_ort", build_ms=12.5)


quick = partial(
    measure, input_shape=SHAPE, min_seconds=0.0, min_samples=10, warm_up=BRIEF, gate=NO_WAIT, block_seconds=0.01
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ComparisonResult, list[str]]]:
    """Three engines measured side by side, and every run of any of them in the order in which they happened."""
    folder = tmp_path_factory.mktemp("engines")
    trace = str(folder / TRACE)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(Path(__file__).parent))
    try:
        engines = [spin(folder, name, spin_ms, trace=trace) for name, spin_ms in SPIN_MS.items()]
        yield quick(engines, seed=5), Path(trace).read_text().split()
    finally:
        patch.undo()


@pytest.fixture(scope="module")
def comparison(session: tuple[ComparisonResult, list[str]]) -> ComparisonResult:
    return session[0]


def test_an_engine_of_three_times_the_work_is_a_third_as_fast(comparison: ComparisonResult) -> None:
    # The engines spend CPU time by the clock, so the ratio on that clock does not feel what else the machine does.
    speedup = comparison.speedup("one", baseline="three", clock=Clock.CPU)
    assert speedup.ratio == pytest.approx(3, rel=0.05)
    assert speedup.verdict is Verdict.FASTER
    assert speedup.low is not None
    assert speedup.high is not None
    assert 2.7 < speedup.low <= speedup.ratio <= speedup.high < 3.3
    slower = comparison.speedup("three", baseline="one", clock=Clock.CPU)
    assert slower.verdict is Verdict.SLOWER
    assert slower.ratio == pytest.approx(1 / speedup.ratio)


def test_twins_do_not_differ(comparison: ComparisonResult) -> None:
    assert comparison.speedup("one", baseline="twin", clock=Clock.CPU).ratio == pytest.approx(1, rel=0.05)


def test_the_ratio_of_wall_times_is_the_median_over_rounds(comparison: ComparisonResult) -> None:
    def medians(name: str) -> list[float]:
        measurement = comparison.measurement(name)
        ends = np.cumsum(measurement.block_sizes)[:-1]
        return [float(np.median(block)) for block in np.split(np.array(measurement.samples_ms), ends)]

    ratios = [slow / fast for slow, fast in zip(medians("three"), medians("one"), strict=True)]
    expected = float(np.exp(np.median(np.log(ratios))))
    assert comparison.speedup("one", baseline="three").ratio == pytest.approx(expected)


def test_engines_really_ran_in_the_order_that_is_reported(session: tuple[ComparisonResult, list[str]]) -> None:
    comparison, ran = session
    expected: list[str] = []
    for turn, names in enumerate(comparison.order):
        for name in names:
            block = comparison.measurement(name).block_sizes[turn]
            expected += [name] * (comparison.settle_runs + block)
    warm = len(ran) - len(expected)
    assert ran[warm:] == expected
    loaded = [name for name in SPIN_MS for _ in range(1 + len(comparison.measurement(name).warm_up_ms))]
    assert ran[:warm] == loaded


def test_each_round_runs_every_engine_once_in_an_order_drawn_from_the_seed(comparison: ComparisonResult) -> None:
    names = tuple(SPIN_MS)
    generator = np.random.default_rng(5)
    expected = tuple(tuple(names[i] for i in generator.permutation(3)) for _ in comparison.order)
    assert comparison.order == expected
    assert len(set(comparison.order)) > 1
    for measurement in comparison.measurements:
        assert len(measurement.block_sizes) == len(comparison.order) >= 10


def test_samples_are_what_the_engine_took(comparison: ComparisonResult) -> None:
    measurement = comparison.measurement("three")
    assert min(measurement.samples_ms) >= 6.0
    assert measurement.first_ms >= 6.0
    assert len(measurement.samples_ms) >= 10
    assert comparison.target_reached
    assert measurement.output_shape == SHAPE
    assert measurement.input_shape == SHAPE
    assert sum(map(len, measurement.blocks(Clock.CPU))) == len(measurement.cpu_ms)
    assert 6.0 <= min(measurement.cpu_ms) <= np.median(measurement.cpu_ms) < 6.5
    # One thread cannot get more CPU time than passes on the wall; the two clocks are read a moment apart.
    assert all(cpu < wall + 0.5 for cpu, wall in zip(measurement.cpu_ms, measurement.samples_ms, strict=True))


def test_summary_refuses_the_percentiles_that_the_samples_cannot_carry(tmp_path: Path) -> None:
    result = quick([spin(tmp_path, "engine", 0.5)], min_samples=30, percentiles=(50.0, 90.0, 99.0, 99.9))
    summary = result.measurement("engine").to_summary()
    assert 29 <= summary.n < 299
    assert summary.p90_ms is not None
    assert summary.p90_ms >= summary.median_ms >= 0.5
    written = json.loads(summary.model_dump_json())
    assert written["p99_ms"] is None
    assert [p["value_ms"] is None for p in written["percentiles"]] == [False, False, True, True]
    assert [p["needed"] for p in written["percentiles"]] == [5, 29, 299, 2995]


def test_the_default_number_of_samples_is_what_the_highest_percentile_needs(tmp_path: Path) -> None:
    result = quick([spin(tmp_path, "engine", 0.3)], min_samples=None, percentiles=(50.0, 95.0))
    assert result.min_samples == 59
    assert len(result.measurement("engine").samples_ms) >= 59


def test_json_round_trip(comparison: ComparisonResult) -> None:
    again = ComparisonResult.model_validate_json(comparison.model_dump_json())
    assert again == comparison
    assert again.speedup("one", "three") == comparison.speedup("one", "three")
    one = comparison.measurement("one")
    assert Measurement.model_validate_json(one.model_dump_json()) == one
    assert one.environment_fingerprint == comparison.environment.fingerprint
    assert one.schema_version == 1


def test_a_real_onnx_runtime_engine_is_measured(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 3, 32, 48), np.float32))
    small, large = conv(tmp_path, "small", 4), conv(tmp_path, "large", 256)
    ballast = np.ones(400 << 17)
    result = quick([small, large], input_shape=None, input_file=tmp_path / "x.npy", threads=1)
    assert ballast.nbytes == 400 << 20
    first = result.measurement("small")
    assert first.output_shape == (1, 4, 32, 48)
    assert first.build_ms == 12.5
    assert first.load_ms > 0
    assert result.speedup("small", baseline="large").ratio > 3
    if sys.platform == "linux":
        # The peak is the worker's own, not inherited from this process, which holds more than 400 MB.
        assert first.peak_rss_bytes is not None
        assert first.rss_before_load_bytes is not None
        assert first.rss_before_load_bytes < first.peak_rss_bytes < 400 << 20


def test_warm_up_goes_on_until_a_slow_start_is_over(tmp_path: Path) -> None:
    candidate = spin(tmp_path, "warming", 1.0, slow_runs=12, slow_ms=6.0)
    policy = WarmUp(min_runs=4, min_seconds=0.0, max_seconds=10.0, tolerance=0.3)
    measurement = quick([candidate], warm_up=policy).measurement("warming")
    assert measurement.steady
    assert len(measurement.warm_up_ms) >= 12
    assert np.median(measurement.cpu_ms) == pytest.approx(1.0, rel=0.2)
    assert np.median(measurement.warm_up_ms[:12]) >= 7.0


def test_a_warm_up_that_never_settles_is_capped_and_reported(tmp_path: Path) -> None:
    policy = WarmUp(min_runs=2, min_seconds=0.0, max_seconds=0.02)
    measurement = quick([spin(tmp_path, "engine", 5.0)], warm_up=policy).measurement("engine")
    assert not measurement.steady
    assert len(measurement.warm_up_ms) < 8


def test_max_seconds_ends_a_session_that_cannot_reach_its_target(tmp_path: Path) -> None:
    result = quick([spin(tmp_path, "engine", 5.0)], min_samples=100_000, max_seconds=0.2)
    assert not result.target_reached
    assert len(result.measurement("engine").samples_ms) < 400


def test_starved_samples_are_counted_and_kept(tmp_path: Path) -> None:
    # Half of each run sleeps: the CPU time is far below the wall time, as when another process holds the core.
    measurement = quick([spin(tmp_path, "engine", 4.0, fault="sleep")]).measurement("engine")
    assert measurement.starved_samples == len(measurement.samples_ms)
    assert Noise.STARVED in measurement.noise
    assert measurement.noisy


def test_a_serial_engine_with_two_threads_has_starved_samples(tmp_path: Path) -> None:
    measurement = quick([spin(tmp_path, "engine", 2.0)], threads=2).measurement("engine")
    assert measurement.starved_samples == len(measurement.samples_ms)


def test_foreign_load_is_seen_and_stamped(tmp_path: Path) -> None:
    code = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    busy = subprocess.Popen([sys.executable, "-c", code])
    try:
        gate = LoadGate(max_foreign_share=0.02, wait_seconds=0.2, window_seconds=0.2)
        result = quick([spin(tmp_path, "engine", 4.0)], gate=gate, min_seconds=0.5)
    finally:
        busy.kill()
        busy.wait()
    assert result.waited_seconds >= 0.2
    assert result.foreign_cores_before > gate.max_foreign_cores
    assert Noise.FOREIGN_LOAD_BEFORE in result.measurement("engine").noise
    assert Noise.FOREIGN_LOAD_DURING in result.measurement("engine").noise


def test_own_work_is_not_foreign_load() -> None:
    before = CpuReading(wall=10.0, machine=100.0, own=50.0)
    assert before.foreign_cores_until(CpuReading(wall=12.0, machine=104.0, own=51.0)) == 1.5
    assert before.foreign_cores_until(CpuReading(wall=12.0, machine=102.0, own=52.1)) == 0.0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_affinity_reaches_the_worker(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    measurement = quick([spin(tmp_path, "engine", 0.5)], affinity=[core]).measurement("engine")
    assert measurement.affinity == (core,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": None}, "either an input shape or an input file"),
        ({"input_shape": (3, 8, 8)}, "four positive numbers"),
        ({"input_shape": None, "input_file": Path("no/such.npy")}, "cannot be read as .npy"),
        ({"threads": 0}, "threads must be 1 or more"),
        ({"min_seconds": 9.0, "max_seconds": 1.0}, "max_seconds"),
        ({"affinity": [4096]}, "not among the cores"),
        ({"min_samples": None, "percentiles": (100.0,)}, "outside"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_before_a_worker_starts(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        quick([spin(tmp_path, "engine", 1.0)], **options)


def test_an_engine_may_have_an_input_of_its_own(tmp_path: Path) -> None:
    np.save(tmp_path / "colour.npy", np.zeros((1, 3, 5, 7), np.float32))
    grey, colour = spin(tmp_path, "grey", 0.5), spin(tmp_path, "colour", 0.5)
    found = quick([grey, replace(colour, input_file=tmp_path / "colour.npy")])
    assert {m.name: (m.input_shape, m.output_shape) for m in found.measurements} == {
        "grey": (SHAPE, SHAPE), "colour": ((1, 3, 5, 7), (1, 3, 5, 7)),
    }  # fmt: skip


def test_two_engines_of_one_name_are_refused(tmp_path: Path) -> None:
    candidate = spin(tmp_path, "engine", 1.0)
    with pytest.raises(UsageError, match="names that differ"):
        quick([candidate, candidate])
