"""Settings of recovery training that make no sense are refused with the name of the field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitwright.foundation.errors import UsageError
from compress.recovery.settings import Arithmetic, RecoverySettings
from tests.compress.test_recovery import A4, W3, quantized, trained
from tests.compress.test_recovery import SHORT as TRAINED

SHORT = RecoverySettings(steps=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"steps": None}, "either steps or minutes"), ({"batch": 0}, "batch"), ({"ema": 1.0}, "ema"),
     ({"output_weight": 0.0, "feature_weight": 0.0}, "weights of the losses")],
)  # fmt: skip
def test_settings_out_of_range_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SHORT, **change)  # type: ignore[arg-type]


def test_training_in_bf16_brings_it_closer_too() -> None:
    model = quantized(W3, A4)
    found = {kind: trained(model, replace(TRAINED, arithmetic=kind)) for kind in Arithmetic}
    wide, short = found[Arithmetic.FLOAT32], found[Arithmetic.BF16]
    assert short.before == wide.before
    assert short.after > short.before + 0.7 * (wide.after - wide.before)
    assert short.history != wide.history
