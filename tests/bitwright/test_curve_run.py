"""Whole curves of a tiny network through the real command line: what is on the disk, what is told, what is picked."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitwright
from bitwright.report.tradeoff_curve import Kind, TradeoffCurve
from bitwright.runs import curve_costs
from compress.plan import Plan
from deploy.audit import Audit
from deploy.engines import load_engine, read_spec
from hw_profiles.kernel import Kernel
from hw_profiles.latency_table import LatencyRow, Quantiles, append
from tests.bitwright.curve_helpers import run_curve
from tests.bitwright.job_helpers import Ended, read_json, some_photos, tiny_checkpoint

pytestmark = pytest.mark.engine


class Made:
    """A finished curve with what it was made of."""

    def __init__(self, checkpoint: Path, photos: Path, run: Path, runtime: str) -> None:
        self.checkpoint, self.photos, self.run, self.runtime = checkpoint, photos, run, runtime

    @property
    def curve(self) -> TradeoffCurve:
        return TradeoffCurve.model_validate_json((self.run / "curve.json").read_bytes())

    def again(self, capsys: pytest.CaptureFixture[str], *more: str) -> Ended:
        words = ("--runtime", self.runtime, "--points", POINTS[self.runtime], "--resume", *more)
        return run_curve(capsys, self.checkpoint, self.photos, self.run, *words)


POINTS = {"openvino": "3", "onnxruntime": "1"}
BRIEF = 0.2
"""Seconds of timing for the kernels of each plan; the default is for real networks."""


@pytest.fixture(scope="module", params=sorted(POINTS))
def made(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    from bitwright.cli.app import run
    from tests.bitwright.curve_helpers import curve_words

    folder = tmp_path_factory.mktemp(f"curve-{request.param}")
    net, photos = tiny_checkpoint(folder), some_photos(data, folder / "photos")
    result = Made(net, photos, folder / "run", request.param)
    words = ("--runtime", request.param, "--points", POINTS[request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve_costs, "PROFILE_SECONDS", BRIEF)
        assert run(curve_words(net, photos, result.run, *words)) == 0
    return result


def test_every_point_was_built_audited_evaluated_and_timed(made: Made) -> None:
    curve = made.curve
    assert curve.schema_version == 1
    kinds = [point.kind for point in curve.points]
    assert kinds[0] is Kind.BASELINE
    assert Kind.INTEGER in kinds
    assert Kind.MIXED in kinds
    assert (Kind.FLOAT in kinds) == (made.runtime == "openvino")
    for point in curve.points:
        plan = Plan.load(made.run / point.plan)
        assert point.audit_passed, point.name
        assert point.executed == point.planned
        assert point.planned.get("int8", 0) == len(plan.quantized_layers)
        assert read_spec(made.run / point.engine).runtime.value == point.runtime
        assert abs(point.quality.torch_gap) < 0.02
        assert point.quality.drop == pytest.approx(curve.points[0].quality.engine - point.quality.engine)
        assert (made.run / point.latency.session).is_file()
        assert point.latency.ms == pytest.approx(curve.points[0].latency.ms / point.latency.speedup)


def test_mixed_points_lie_between_float_and_int8(made: Made) -> None:
    curve = made.curve
    floats, integer = curve.points[0].bitops, min(p.bitops for p in curve.points)
    for point in curve.points:
        if point.kind is Kind.MIXED:
            assert 0 < point.executed["int8"] < sum(point.executed.values())
            assert integer < point.bitops < floats
            assert point.prediction.ms is not None


def test_a_finished_curve_is_not_measured_again(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in made.run.rglob("*") if path.parent.name in {"sessions", "engine"}
    }
    ended = made.again(capsys, "--json")
    assert ended.code == 0, ended.err
    assert TradeoffCurve.model_validate_json(ended.out).points == made.curve.points
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_without_resume_a_finished_curve_is_refused(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--runtime", made.runtime, "--points", POINTS[made.runtime])
    assert "curve.html" in run_curve(capsys, made.checkpoint, made.photos, made.run, *words).refusal()
    other = run_curve(
        capsys, made.checkpoint, made.photos, made.run, "--runtime", made.runtime, "--points", "7", "--resume"
    )
    assert "--points is" in other.refusal()


def test_a_budget_writes_the_engine_of_the_best_point_within_it(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    points = made.curve.points
    budget = sorted(point.latency.ms for point in points)[1] * 1.0001
    ended = made.again(capsys, "--budget-ms", f"{budget:.6f}")
    assert ended.code == 0, ended.err
    curve = made.curve
    assert curve.chosen is not None
    chosen = curve.point(curve.chosen.point)
    within = [point for point in points if point.latency.ms <= budget]
    assert chosen.latency.ms <= budget
    assert chosen.quality.held_out_drop == min(point.quality.held_out_drop for point in within)
    folder = made.run / "chosen"
    assert load_engine(folder / "engine", 1).spec == read_spec(made.run / chosen.engine)
    assert Plan.load(folder / "plan.json") == Plan.load(made.run / chosen.plan)
    if chosen.kind is not Kind.BASELINE:
        assert Audit.model_validate_json((folder / "audit.json").read_bytes()).mismatches == ()
        assert (folder / "model.safetensors").stat().st_size > 0
        assert (folder / "model.onnx").stat().st_size == chosen.size_bytes


def test_an_unreachable_budget_exits_3_with_the_fastest_point(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    fastest = min(made.curve.points, key=lambda point: point.latency.ms)
    ended = made.again(capsys, "--budget-ms", "0.0001")
    assert "no point runs within 0.0001 ms" in ended.refusal(3)
    assert fastest.name in ended.last_line
    assert read_spec(made.run / "chosen" / "engine") == read_spec(made.run / fastest.engine)
    assert read_json(made.run / "curve.json")["chosen"]["reached"] is False


def test_a_drop_of_nothing_picks_a_point_that_loses_nothing(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.again(capsys, "--max-drop", "0")
    chosen = made.curve.chosen
    assert chosen is not None
    assert made.curve.point(chosen.point).quality.held_out_drop <= 0


def test_the_page_is_self_contained(made: Made) -> None:
    page = (made.run / "curve.html").read_text()
    without_library = re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.DOTALL)
    assert len(without_library) < 200_000 < len(page)
    assert not re.search(r"https?:", without_library)
    assert not re.search(r"""\b(src|href)\s*=""", without_library)
    assert "default-src 'none'" in html.unescape(page)
    for point in made.curve.points:
        assert f'data-point="{point.name}"' in page


def test_the_picture_is_of_print_size(made: Made) -> None:
    with Image.open(made.run / "curve.png") as picture:
        assert picture.size == (1440, 920)
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 20)
    assert colours is not None
    assert len(colours) > 50


def test_the_table_shows_every_point(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = made.again(capsys).out
    for point in made.curve.points:
        assert point.name in out
    assert f"{len(made.curve.front)} of {len(made.curve.points)} measured points" in out


def test_a_table_of_another_machine_is_used_with_a_warning(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_costs, "PROFILE_SECONDS", BRIEF)
    net, photos, out = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos"), tmp_path / "run"
    kernel = Kernel(op="Conv", precision="int8", inputs=(), outputs=())
    row = LatencyRow(
        profile="x86-avx2", runtime="onnxruntime", runtime_version="1", threads=1, kernel=kernel, n=9, source="test",
        ms=Quantiles(p10=1, p50=1, p90=1, mean=1), fingerprint="0123456789abcdef", created="2026-01-01",
    )  # fmt: skip
    append(tmp_path / "table.jsonl", row)
    words = ("--runtime", "onnxruntime", "--points", "1", "--table", str(tmp_path / "table.jsonl"))
    ended = run_curve(capsys, net, photos, out, *words)
    assert ended.code == 0, ended.err
    assert "measured in another environment" in ended.err
    curve = TradeoffCurve.model_validate_json((out / "curve.json").read_bytes())
    foreign, lacking = curve.warnings[:2]
    assert "x86-avx2 (0123456789abcdef)" in foreign
    assert "lacks kernels of" in lacking
    assert all(layer.name in lacking for layer in curve.points[-1].layers)
    told = [point.prediction for point in curve.points if point.kind is Kind.MIXED]
    assert [(one.source, one.coverage) for one in told] == [("kernels of the latency table", 0.0)]


def test_from_python(made: Made) -> None:
    settings = {"calibration_count": 8, "calibration_size": 32, "iterations": 20, "measure_seconds": 0.1}
    result = bitwright.curve(
        made.checkpoint,
        device="x86-avx512-vnni-bf16",
        data=made.photos,
        out=made.run,
        points=int(POINTS[made.runtime]),
        max_drop=0.5,
        settings={**settings, "input_size": (64, 64), "runtime": made.runtime},
        resume=True,
    )
    assert result.curve.chosen is not None
    assert result.engine().run(np.zeros((1, 3, 16, 16), np.float32)).shape == (1, 3, 32, 32)
