"""LatencyPredictor on synthetic tables whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.foundation.errors import UsageError
from hw_profiles.kernel import Kernel, TensorType
from hw_profiles.latency_table import LatencyRow, LatencyTable, NetworkRow, Quantiles
from hw_profiles.loading import load_profile
from hw_profiles.predictor import LatencyPredictor, Method, Source, peak_memory_bytes

PROFILE = load_profile("x86-avx512-vnni-bf16")
RATE = {"fp32": 1.0, "bf16": 0.5, "int8": 0.25}
ALL = (Method.NONE, Method.LINEAR, Method.NEIGHBOURS, Method.TREES)


def conv(channels: int, side: int, precision: str, layer: str = "", window: int = 3) -> Kernel:
    tensor = TensorType(shape=(1, channels, side, side), dtype=precision)
    weights = channels * channels * window * window
    return Kernel(
        op="Convolution",
        precision=precision,
        inputs=(tensor,),
        outputs=(tensor,),
        window=(window, window),
        stride=(1, 1),
        groups=1,
        macs=weights * side * side,
        weight_elements=weights,
        layers=(layer,) if layer else (),
    )


def truth(kernel: Kernel) -> float:
    """A time that is a sum of amounts: 58 G multiply-accumulates a second in float, 20 GB a second, 2 us a call."""
    return kernel.macs / 58e6 * RATE[kernel.precision] + kernel.bytes / 20e6 + 0.002


def quantiles(ms: float) -> Quantiles:
    return Quantiles(p10=ms * 0.99, p50=ms, p90=ms * 1.01, mean=ms)


def row(
    kernel: Kernel, *, source: str = "grid-c8 fp32 64x64", fingerprint: str = "here", ms: float = 0.0
) -> LatencyRow:
    return LatencyRow(
        profile=PROFILE.id,
        runtime="openvino",
        runtime_version="1",
        threads=1,
        kernel=kernel,
        ms=quantiles(ms or truth(kernel)),
        n=10,
        source=source,
        fingerprint=fingerprint,
        created="2026-01-01T00:00:00+00:00",
    )


def network(name: str, widths: tuple[int, ...], precision: str, side: int = 64) -> NetworkRow:
    kernels = tuple(conv(width, side, precision, f"layer{k}") for k, width in enumerate(widths))
    times = tuple(truth(kernel) for kernel in kernels)
    return NetworkRow(
        profile=PROFILE.id,
        runtime="openvino",
        runtime_version="1",
        threads=1,
        ms=quantiles(sum(times) * 1.05),
        n=10,
        source=f"{name} {precision} {side}x{side}",
        fingerprint="here",
        created="2026-01-01T00:00:00+00:00",
        network=name,
        plan=precision,
        input_shape=(1, 3, side, side),
        kernels=kernels,
        kernel_ms=times,
    )


def grid() -> list[LatencyRow]:
    shapes = [(c, side) for c in (8, 16, 24, 32, 48, 64, 96) for side in (24, 32, 48, 64, 96, 128)]
    return [row(conv(c, side, precision)) for c, side in shapes for precision in RATE]


def table() -> LatencyTable:
    widths = {"alpha": (16, 32, 48), "beta": (24, 64, 64), "gamma": (32, 96, 40)}
    return LatencyTable([*grid(), *(network(n, w, p) for n, w in widths.items() for p in RATE)])


@pytest.fixture(scope="module")
def predictor() -> LatencyPredictor:
    return LatencyPredictor.fit(table(), runtime="openvino", profile=PROFILE)


def test_kernels_of_the_table_have_exactly_their_measured_time(predictor: LatencyPredictor) -> None:
    kernels = [conv(48, 64, "int8"), conv(16, 128, "fp32")]
    prediction = predictor.predict(kernels)
    assert [item.ms for item in prediction.kernels] == pytest.approx([truth(k) for k in kernels], rel=1e-12)
    assert {item.source for item in prediction.kernels} == {Source.MEASURED}
    assert prediction.coverage == 1.0
    assert prediction.uncovered == ()


def test_layers_do_not_change_what_was_measured(predictor: LatencyPredictor) -> None:
    assert predictor.predict([conv(48, 64, "int8", "other.name")]).coverage == 1.0


@pytest.mark.parametrize("method", ALL)
def test_unseen_shapes_are_interpolated_and_extrapolated(method: Method) -> None:
    predictor = LatencyPredictor.fit(LatencyTable(grid()), runtime="openvino", profile=PROFILE, methods=(method,))
    for kernel in (conv(40, 72, "int8"), conv(80, 100, "bf16"), conv(128, 200, "fp32")):
        item = predictor.predict([kernel]).kernels[0]
        assert item.source is Source.INTERPOLATED
        assert item.ms == pytest.approx(truth(kernel), rel=0.05)


@pytest.mark.parametrize("method", [Method.LINEAR, Method.NEIGHBOURS, Method.TREES])
def test_a_shape_that_the_runtime_is_slow_at_is_learned(method: Method) -> None:
    slow = [row(k.kernel, ms=k.ms.p50 * (1.5 if k.kernel.inputs[0].shape[1] == 24 else 1.0)) for k in grid()]
    wide = [
        row(conv(c, side, "int8", window=1), ms=truth(conv(c, side, "int8", window=1)))
        for c in (24, 56)
        for side in (33, 65)
    ]
    predictor = LatencyPredictor.fit(
        LatencyTable([*slow, *wide]), runtime="openvino", profile=PROFILE, methods=(method,)
    )
    odd, even = conv(24, 80, "int8"), conv(32, 80, "int8")
    ratio = predictor.predict([odd]).ms / truth(odd) / (predictor.predict([even]).ms / truth(even))
    assert ratio > 1.12


def test_coverage_is_the_measured_share_of_the_predicted_time(predictor: LatencyPredictor) -> None:
    known, unknown = conv(64, 64, "fp32"), conv(56, 56, "fp32")
    prediction = predictor.predict([known, unknown])
    first, second = (item.ms for item in prediction.kernels)
    assert prediction.coverage == pytest.approx(first / (first + second))
    assert 0.5 < prediction.coverage < 0.9


def test_what_no_row_is_like_comes_from_peaks_and_is_named(predictor: LatencyPredictor) -> None:
    tensor = TensorType(shape=(1, 64, 100, 100), dtype="fp32")
    unlike = Kernel(op="Interpolate", precision="fp32", inputs=(tensor,), outputs=(tensor,))
    layer = conv(64, 64, "fp32", "tail.conv").model_copy(update={"op": "Deconvolution"})
    prediction = predictor.predict([conv(64, 64, "fp32"), unlike, layer])
    assert [item.source for item in prediction.kernels[1:]] == [Source.ROOFLINE, Source.ROOFLINE]
    assert prediction.kernels[1].ms == pytest.approx(2 * 64 * 100 * 100 * 4 / 25e9 * 1e3, rel=0.05)
    assert prediction.kernels[2].ms == pytest.approx(2 * layer.macs / 117e9 * 1e3, rel=0.05)
    assert prediction.uncovered == ("Interpolate fp32", "tail.conv")


def test_held_out_networks_tell_the_error_and_the_whole_is_learned(predictor: LatencyPredictor) -> None:
    error = predictor.report.agreement
    assert error is not None
    assert error.count == 9
    assert error.median < 0.03
    assert error.tau is not None
    assert error.tau > 0.95
    assert predictor.report.held_out == ("alpha", "beta", "gamma")
    assert set(predictor.report.tried) == {Method.NEIGHBOURS, Method.LINEAR, Method.NONE}
    kernels = network("new", (48, 64, 96), "int8", 96).kernels
    prediction = predictor.predict(kernels)
    assert prediction.ms == pytest.approx(1.05 * sum(truth(k) for k in kernels), rel=0.02)
    assert prediction.low is not None
    assert prediction.high is not None
    assert prediction.low <= prediction.ms * 1.03
    assert prediction.high >= prediction.low


def test_a_network_that_no_other_is_like_is_named_and_does_not_blur_the_estimate() -> None:
    kernel = conv(48, 64, "fp32").model_copy(update={"op": "Deconvolution"})
    alone = network("delta", (48,), "fp32").model_copy(
        update={"kernels": (kernel,), "kernel_ms": (500.0,), "ms": quantiles(500.0)}
    )
    found = LatencyPredictor.fit(LatencyTable([*table().networks, *grid(), alone]), runtime="openvino", profile=PROFILE)
    assert found.report.unlike == ("delta",)
    assert found.report.held_out == ("alpha", "beta", "gamma")
    assert found.report.agreement is not None
    assert found.report.agreement.median < 0.02
    assert found.report.agreement.p90 < 0.05
    assert found.predict([kernel]).ms == pytest.approx(500.0, rel=0.1)


def test_without_networks_to_hold_out_the_error_is_unknown_not_zero() -> None:
    predictor = LatencyPredictor.fit(LatencyTable(grid()), runtime="openvino", profile=PROFILE)
    assert predictor.report.agreement is None
    assert predictor.predict([conv(64, 64, "fp32")]).low is None


def test_same_table_gives_the_same_json_and_it_survives_the_disk(tmp_path: Path, predictor: LatencyPredictor) -> None:
    again = LatencyPredictor.fit(table(), runtime="openvino", profile=PROFILE)
    assert again.model_dump_json() == predictor.model_dump_json()
    predictor.save(tmp_path / "predictor.json")
    loaded = LatencyPredictor.load(tmp_path / "predictor.json")
    kernels = [conv(40, 72, "int8"), conv(64, 64, "fp32")]
    assert loaded.predict(kernels) == predictor.predict(kernels)


def test_trees_survive_the_disk(tmp_path: Path) -> None:
    predictor = LatencyPredictor.fit(LatencyTable(grid()), runtime="openvino", profile=PROFILE, methods=(Method.TREES,))
    predictor.save(tmp_path / "predictor.json")
    kernels = [conv(40, 72, "int8")]
    assert LatencyPredictor.load(tmp_path / "predictor.json").predict(kernels) == predictor.predict(kernels)


def test_rows_of_another_machine_are_told() -> None:
    foreign = LatencyTable([*grid(), row(conv(48, 20, "fp32"), fingerprint="elsewhere")])
    predictor = LatencyPredictor.fit(foreign, runtime="openvino", profile=PROFILE)
    warning = predictor.foreign_warning("here")
    assert warning is not None
    assert "another environment (elsewhere)" in warning
    assert (
        LatencyPredictor.fit(LatencyTable(grid()), runtime="openvino", profile=PROFILE).foreign_warning("here") is None
    )


def test_a_table_without_the_runtime_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kernel of onnxruntime on 1 threads"):
        LatencyPredictor.fit(LatencyTable(grid()), runtime="onnxruntime", profile=PROFILE)
    (tmp_path / "p.json").write_text('{"schema_version": 1}')
    with pytest.raises(UsageError, match="is no latency predictor: profile"):
        LatencyPredictor.load(tmp_path / "p.json")


def test_peak_memory_counts_weights_and_what_is_live() -> None:
    kernels = [conv(16, 32, "fp32") for _ in range(4)]
    tensor = 16 * 32 * 32 * 4
    weights = 4 * 16 * 16 * 9 * 4
    assert peak_memory_bytes(kernels) == weights + 2 * tensor
    total = kernels[0].model_copy(update={"inputs": kernels[0].inputs * 2})
    assert peak_memory_bytes([kernels[0], kernels[1], total]) == 3 * 16 * 16 * 9 * 4 + 3 * tensor
