"""Formatting of numbers, the verdict in words, chart geometry and the terminal table."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from bitwright.report import charts, text, verdict, views
from bitwright.report.html import build_html
from bitwright.report.measured import Speedup
from bitwright.report.schema import Report
from bitwright.report.terminal import print_result
from bitwright.runs.measure import MeasureSummary


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (text.number(None), "n/a"),
        (text.number(-0.0001, 2), "0.00"),
        (text.number(-1.25, 1), "−1.2"),
        (text.signed(0.0004), "0.000"),
        (text.signed(0.0125, 3), "+0.013"),
        (text.signed(-0.1), "−0.100"),
        (text.milliseconds(171.44), "171.4"),
        (text.milliseconds(1.2345), "1.23"),
        (text.milliseconds(0.12345), "0.123"),
        (text.interval(1.0, None), "n/a"),
        (text.duration(9.96), "10.0 s"),
        (text.duration(185), "3 min 05 s"),
        (text.duration(3725), "1 h 02 min"),
        (text.scaled(433_448), "433 k"),
        (text.scaled(999_600), "1.00 M"),
        (text.scaled(12, "B"), "12 B"),
        (text.scaled(6_740_000_000_000_000), "6.74 P"),
        (text.percent(1, 0), "n/a"),
        (text.command_line(["a", "b c", "$x"]), "a 'b c' '$x'"),
    ],
)
def test_numbers_as_text(got: str, expected: str) -> None:
    assert got == expected


@pytest.mark.parametrize(
    ("ratio", "low", "high", "words"),
    [
        (1.01, 0.97, 1.05, "shows no speed difference (95 % interval 0.97–1.05) to ONNX Runtime fp32"),
        (0.5, 0.4, 0.625, "runs 2.00× slower (95 % interval 1.60–2.50) than ONNX Runtime fp32"),
        (2.0, 1.9, 2.1, "runs 2.00× faster (95 % interval 1.90–2.10) than ONNX Runtime fp32"),
    ],
)
def test_verdict_follows_the_interval(report: Report, ratio: float, low: float, high: float, words: str) -> None:
    assert report.latency is not None
    speedup = Speedup(ratio=ratio, low=low, high=high, verdict="")
    changed = report.model_copy(update={"latency": report.latency.model_copy(update={"speedup": speedup})})
    assert words in verdict.plain_sentence(changed)


def without_interval(report: Report) -> Report:
    """The report of a session with too few rounds for an interval of the ratio."""
    assert report.latency is not None
    speedup = Speedup(ratio=3.208, low=None, high=None, verdict="too few blocks to tell")
    return report.model_copy(update={"latency": report.latency.model_copy(update={"speedup": speedup})})


def test_a_ratio_without_an_interval_says_so_everywhere(report: Report, run_folder: Path) -> None:
    partial = without_interval(report)
    again = Report.from_json(partial.to_json())
    assert again.latency is not None
    assert (again.latency.speedup.low, again.latency.speedup.high) == (None, None)
    sentence = verdict.plain_sentence(partial)
    assert "was timed too briefly to tell (interval n/a) from ONNX Runtime fp32" in sentence
    assert "faster" not in sentence
    assert "3.21× [interval n/a]" in printed(partial)
    page = build_html(partial, run_folder)
    assert page.count("interval n/a") == 3
    assert "None" not in page
    summary = MeasureSummary(
        run="r", file="r/measurements/a.json", latency=again.latency, noise=(), same_machine=True, machine="this one",
        elsewhere=None,
    )  # fmt: skip
    assert "speed-up 3.21 [interval n/a]: too few blocks to tell" in summary.lines()


def test_half_an_interval_is_refused() -> None:
    with pytest.raises(ValidationError, match="both ends"):
        Speedup(ratio=2.0, low=1.9, high=None, verdict="")


def test_quality_on_held_out_images_is_said_in_words(report: Report, run_folder: Path) -> None:
    assert report.quality is not None
    dataset = report.quality.dataset.model_copy(update={"held_out": True})
    changed = report.model_copy(update={"quality": report.quality.model_copy(update={"dataset": dataset})})
    assert "PSNR-Y on held-out images of Set14." in verdict.plain_sentence(changed)
    assert "no independent set was given" in build_html(changed, run_folder)
    assert "no independent set was given" not in build_html(report, run_folder)


def test_images_are_sorted_by_loss_and_bars_are_relative(report: Report) -> None:
    assert report.quality is not None
    rows = views.image_rows(report.quality)
    assert rows[0].drop == pytest.approx(max(row.drop for row in rows))
    assert rows[0].length == 1.0
    assert rows[-1].drop < 0 < rows[-1].length < 1


def test_ticks_are_round_and_inside() -> None:
    assert charts.ticks(0, 600) == [0, 100, 200, 300, 400, 500, 600]
    assert charts.ticks(0.13, 0.29) == pytest.approx([0.15, 0.2, 0.25])
    assert charts.ticks(3, 3) == [3]


def test_every_sample_is_drawn_to_scale() -> None:
    series = charts.Series("Engine", "engine", [10.0, 20.0, 40.0], 20.0, None, None, None)
    drawn = charts.strip([series])
    xs = [float(move.split()[0]) for move in drawn.split('d="M')[1].split('"')[0].split("M")]
    assert len(xs) == 3
    assert (xs[2] - 12) / (xs[0] - 12) == pytest.approx(4, abs=0.01)


def test_histogram_of_equal_samples_is_drawn() -> None:
    drawn = charts.histogram(charts.Series("E", "engine", [5.0, 5.0], 5.0, 5.0, 5.0, None))
    assert drawn.count('class="column"') == 1
    assert "nan" not in drawn


def printed(report: Report) -> str:
    """What the terminal shows, without colour."""
    buffer = io.StringIO()
    print_result(report, Console(file=buffer, width=120))
    return buffer.getvalue()


def test_terminal_shows_the_result(report: Report) -> None:
    shown = printed(report)
    for figure in ("549.8 [548.7–550.9]", "3.21× [3.17–3.24]", "−0.127", "611 kB", "35 %", "14.6× fewer"):
        assert figure in shown, figure
    assert "22 int8, 2 bf16" in shown
    assert "next    bitwright verify runs/rfdn" in shown


def test_terminal_prints_na_and_does_not_read_markup(report: Report) -> None:
    hostile = report.model.model_copy(update={"architecture": "[bold red]net[/x]"})
    shown = printed(report.model_copy(update={"model": hostile, "latency": None, "quality": None, "audit": None}))
    assert "[bold red]net[/x]" in shown
    assert shown.count("n/a") >= 11
