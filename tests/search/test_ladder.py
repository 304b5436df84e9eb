"""The ladder: plans strictly between integers and float, the layers that hurt most first, ties together."""

from __future__ import annotations

from search.sensitivity.ladder import ladder
from search.sensitivity.quality import QualityModel

ALLOWED = {"a": ("int8", "bf16"), "b": ("int8", "bf16"), "c": ("int8", "bf16"), "d": ("int8", "bf16")}
ERRORS = {"a": 1.0, "b": 5.0, "c": 3.0, "d": 0.5}


def _quality() -> QualityModel:
    return QualityModel(layer_error={layer: {"int8": e, "bf16": 0.01} for layer, e in ERRORS.items()})


def _floats(steps: list[dict[str, str]]) -> list[set[str]]:
    return [{layer for layer, precision in step.items() if precision == "bf16"} for step in steps]


def test_the_layers_that_hurt_most_go_to_float_first() -> None:
    assert _floats(ladder(ALLOWED, _quality())) == [{"b"}, {"b", "c"}, {"b", "c", "a"}]


def test_tied_layers_move_together() -> None:
    assert _floats(ladder(ALLOWED, _quality(), [("a", "c")])) == [{"b"}, {"b", "a", "c"}]
    assert _floats(ladder(ALLOWED, _quality(), [("b", "d")])) == [{"b", "d"}, {"b", "d", "c"}]


def test_layers_with_one_precision_stay_there() -> None:
    allowed = {**ALLOWED, "b": ("int8",), "a": ("bf16",)}
    assert _floats(ladder(allowed, _quality())) == [{"a", "c"}, {"a", "c", "d"}]


def test_a_network_without_a_choice_has_no_steps() -> None:
    assert ladder({"a": ("bf16",)}, _quality()) == []
    assert ladder({"a": ("int8",)}, _quality()) == []
