"""What a report says of zeros: never that they are fast where no kernel gains time, whatever the engine's speed-up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.report import verdict
from bitwright.report.html import build_html
from bitwright.report.mask_chart import line, training_charts
from bitwright.report.pruned import MaskTrainingResult, SparsityResult
from bitwright.report.schema import Report
from hw_profiles.sparsity_support import SIZE_ONLY

RATIOS = (1.07, 3.71, 61.7)


def with_zeros(report: Report, ratio: float, training: MaskTrainingResult | None = None) -> Report:
    """The report of a pruned int8 engine that is `ratio` times as fast as the dense float one."""
    assert report.latency is not None
    speedup = report.latency.speedup.model_copy(update={"ratio": ratio, "low": 0.99 * ratio, "high": 1.01 * ratio})
    zeros = SparsityResult(
        asked="2:4", layers={"2:4": 20}, zeros=0.5, size_only=True, effect=f"N:M is {SIZE_ONLY} here", raw_bytes=100,
        deflated_bytes=60, packed_bytes=62, unpacked_bytes=100, training=training,
    )  # fmt: skip
    latency = report.latency.model_copy(update={"speedup": speedup})
    return report.model_copy(update={"latency": latency, "sparsity": zeros})


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_speed_of_8_bits_is_never_put_down_to_zeros(report: Report, ratio: float) -> None:
    """Trap: figures that mix int8, a baseline in fp32 and 2:4 are told as the gain of sparsity."""
    plain = {check.text for check in verdict.checks(report.model_copy(update={"sparsity": None}))}
    told = [c.text for c in verdict.checks(with_zeros(report, ratio)) if c.text not in plain]
    assert any(SIZE_ONLY in text for text in told)
    for text in told:
        assert not any(
            word in text.lower() for word in ("faster", "speed", "latency", "ms ", "\N{MULTIPLICATION SIGN}")
        )
        assert f"{ratio:g}" not in text
    sentence = verdict.plain_sentence(with_zeros(report, ratio))
    assert not any(word in sentence.lower() for word in ("2:4", "sparsity", "pruned", "zero"))


def test_a_training_of_masks_is_drawn_and_one_that_gained_nothing_is_told(report: Report, run_folder: Path) -> None:
    training = MaskTrainingResult(
        method="sr_ste", steps=40, best_step=0, seconds=1.0, before=30.0, after=30.0, at_steps=(0, 10, 20),
        curves={"v_var": (1e-6, 0.0, 1e-8), "sad": (0.0, 0.0, 0.0)},
    )  # fmt: skip
    found = with_zeros(report, 1.0, training)
    assert any("was better than its start" in check.text for check in verdict.checks(found))
    page = build_html(found, run_folder)
    assert page.count('class="curve"') == 2
    assert "no step was better" in page
    assert len(training_charts(training)) == 2
    assert training_charts(None) == ()
    # What is not positive leaves a gap on a logarithmic axis.
    assert str(line((0, 10, 20), (1e-6, 0.0, 1e-8), "v", True)).count("M") == 2
    assert "Training of masks" not in build_html(with_zeros(report, 1.0), run_folder)


def test_of_two_pruned_networks_both_drops_are_told_and_which_one_was_kept(report: Report, run_folder: Path) -> None:
    training = MaskTrainingResult(
        method="sr_ste", steps=40, best_step=30, seconds=1.0, before=30.0, after=31.0, untrained_drop=0.125,
        trained_drop=0.375,
    )  # fmt: skip
    worse = with_zeros(report, 1.0, training)
    assert any("left out" in check.text for check in verdict.checks(worse))
    page = build_html(worse, run_folder)
    assert "0.125" in page
    assert "0.375" in page
    assert "the training was left out" in page
    better = with_zeros(report, 1.0, training.model_copy(update={"trained_drop": 0.0625}))
    assert not any("left out" in check.text for check in verdict.checks(better))
    assert "the trained one was kept" in build_html(better, run_folder)
