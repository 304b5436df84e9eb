"""Training of masks: legal, never worse than one-shot pruning, resumable to the bit, and by the method asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from bitwright.foundation.errors import UsageError
from compress.graph import capture, layer_nodes, tensor, weight_name
from compress.layer_table import LayerTable
from compress.nm_pattern import Sparsity
from compress.recovery import moving_masks
from compress.recovery.checkpoint import Position
from compress.recovery.mask_settings import MaskSettings
from compress.recovery.schedule import PACE_STEPS
from compress.recovery.settings import RecoverySettings
from compress.recovery.train_masks import STATE, TrainedMasks, Wanted, train_masks
from compress.sparsity import METHODS, Restrict
from compress.sparsity.legality import check
from compress.sparsity.one_shot import input_norms, pruned, sparse_weights
from compress.sparsity.step_adam import StepAdam
from tests.compress.test_recovery import HELD_OUT, Crops, Small, batch

SHORT = RecoverySettings(steps=40, batch=2, warm_up=4, ema=0.9, checks=4, log_every=1, layers_per_tap=2,
                         save_seconds=0.0)  # fmt: skip
METHOD_NAMES = [name for name in METHODS if name != "dense"]


def subjects(text: str = "1:8") -> tuple[fx.GraphModule, LayerTable, dict[str, Sparsity], Wanted]:
    torch.manual_seed(0)
    dense = capture(Small(), HELD_OUT[:1])
    table = LayerTable.from_graph(dense, HELD_OUT[:1])
    pattern = Sparsity.parse(text)
    patterns = {row.name: pattern for row in table.rows if row.input_shape[1] % pattern.m == 0}
    return dense, table, patterns, sparse_weights(dense, table, patterns)


def trained(masks: MaskSettings, settings: RecoverySettings = SHORT, text: str = "1:8", **more: object) -> TrainedMasks:
    dense, _, _, wanted = subjects(text)
    with torch.inference_mode():
        aim = dense(HELD_OUT)

    def score(predict: object) -> float:
        assert callable(predict)
        return -float((predict(HELD_OUT) - aim).square().mean())

    norms = input_norms(dense, batch(0, 8), set(wanted))
    return train_masks(dense, wanted, norms, Crops(), settings, masks, score=score, **more)  # type: ignore[arg-type]


def error(graph: fx.GraphModule) -> float:
    dense, *_ = subjects()
    with torch.inference_mode():
        return float((graph(HELD_OUT) - dense(HELD_OUT)).square().mean())


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_gives_a_legal_network_that_is_better_than_one_shot_pruning(method: str) -> None:
    dense, table, patterns, wanted = subjects()
    result = trained(MaskSettings(method, rate=2e-3))
    at_once = pruned(dense, table, patterns, batch(0, 8))
    assert result.before == pytest.approx(-error(at_once), rel=1e-4)
    assert result.after == pytest.approx(-error(result.graph), rel=1e-4)
    assert error(result.graph) < 0.8 * error(at_once)
    for name, (pattern, layout) in wanted.items():
        found = check(tensor(result.graph, name), pattern, layout)
        assert found.holds
        assert found.zeros == pytest.approx(7 / 8)
        assert bool((tensor(dense, name) != 0).all())
    others = {weight_name(n) for _, n in layer_nodes(dense)} - set(wanted)
    assert others
    assert all(bool((tensor(result.graph, name) != 0).all()) for name in others)
    assert {name for _, name, _ in result.rows} == set(wanted)


def test_methods_differ_in_what_reaches_pruned_weights() -> None:
    """The method is really carried out: its own diagnostics tell it apart from the others."""
    late = {}
    for method in ("one_shot", "ste", "mdgf_exponential"):
        result = trained(MaskSettings(method, rate=2e-3))
        rows = [values for step, _, values in result.rows if step == 30]
        assert len(rows) == len(subjects()[3])
        late[method] = sum(values.pruned_energy for values in rows) / len(rows)
    assert late["one_shot"] == 0.0
    assert late["ste"] > 0.5
    assert 0.0 < late["mdgf_exponential"] < 0.1 * late["ste"]


def test_restricting_updates_moves_pruned_weights_less() -> None:
    moved = {}
    for restrict in Restrict:
        result = trained(MaskSettings("mdgf_exponential", restrict=restrict, rate=2e-3))
        moved[restrict] = sum(values.update_pruned for step, _, values in result.rows if step == 30)
    assert moved[Restrict.UPDATE] < 0.5 * moved[Restrict.GRAD]


def test_the_result_is_never_worse_than_one_shot_pruning() -> None:
    result = trained(MaskSettings("ste", rate=10.0), replace(SHORT, steps=8))
    assert result.best_step == 0
    assert result.after == result.before
    dense, table, patterns, _ = subjects()
    at_once = pruned(dense, table, patterns, batch(0, 8))
    for name, value in at_once.state_dict().items():
        assert torch.equal(tensor(result.graph, name), value), name


class StopError(Exception):
    pass


@pytest.mark.parametrize(
    "masks",
    [
        MaskSettings("mdgf_exponential", rate=2e-3, period=3),
        MaskSettings("sdgf_geometric", rate=2e-3, freeze_v_at=12),
        MaskSettings("sr_ste", rate=2e-3, dense=0.1, restrict=Restrict.UPDATE),
        MaskSettings("mdgf_exponential", rate=2e-3, restrict=Restrict.UPDATE, freeze_v_at="auto"),
    ],
)
def test_interrupted_training_ends_bit_equal(
    tmp_path: Path, masks: MaskSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's v is looked at in steps 10, 20, 30 here, between which it is cut."""
    made: list[StepAdam] = []

    def short(*given: Any, **more: Any) -> StepAdam:
        made.append(StepAdam(*given, betas=(0.9, 0.9), threshold=1.0, **more))
        return made[-1]

    monkeypatch.setattr(moving_masks, "StepAdam", short)
    whole = trained(masks, folder=tmp_path / "whole")
    if masks.freeze_v_at == "auto":
        ended = made[0].param_groups[0]
        assert ended["frozen"]
        v_steps = {state["v_steps"] for state in made[0].state.values()}
        assert v_steps == {20}
    for cut in (11, 37):
        folder = tmp_path / str(cut)

        def stop(position: Position, cut: int = cut) -> None:
            if position.step == cut + 1:
                raise StopError

        with pytest.raises(StopError):
            trained(masks, folder=folder, on_log=stop)
        assert (folder / STATE).is_file()
        again = trained(masks, folder=folder)
        for name, value in whole.graph.state_dict().items():
            assert torch.equal(tensor(again.graph, name), value), (cut, name)
        assert again.rows == whole.rows
    with pytest.raises(UsageError, match="belongs to another"):
        trained(replace(masks, rate=1e-3), folder=tmp_path / "whole")


def test_a_time_budget_freezes_the_mask_after_its_pace_is_known() -> None:
    result = trained(MaskSettings("mdgf_linear", rate=1e-3), replace(SHORT, steps=None, minutes=0.001))
    assert result.steps > PACE_STEPS
    assert error(result.graph) > 0
    phases = MaskSettings().phases(25, PACE_STEPS)
    assert (phases.start, phases.end) == (0, PACE_STEPS)
    late = MaskSettings(dense=0.1).phases(1000, PACE_STEPS)
    assert (late.start, late.end) == (100, 850)
    for dense in (0.01, 0.5, 0.84, 0.99):
        for total in (PACE_STEPS + 1, 30, 50, 1000):
            short = MaskSettings(dense=dense, fine_tune=0.005).phases(total, PACE_STEPS)
            assert PACE_STEPS <= short.start < short.end <= total


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": "magic"}, "'magic' is not a method"),
        ({"dense": 0.5, "fine_tune": 0.5}, "leave no step"),
        ({"period": 11}, "every 1 to 10 steps"),
        ({"rate": 0.0}, "above 0"),
    ],
)
def test_settings_out_of_range_are_named(more: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        MaskSettings(**more)  # type: ignore[arg-type]
