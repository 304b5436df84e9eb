"""Pruned and quantised networks learn from the dense one, and what is pruned stays the integer zero."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from compress.compressed import CompressedModel
from compress.graph import capture, clone, layer_nodes
from compress.layer_table import LayerTable
from compress.nm_pattern import Sparsity
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from compress.ranges import set_ranges
from compress.reconstruction import ReconstructionSettings, reconstruct
from compress.recovery.recover import recover
from compress.sparsity.legality import check
from compress.sparsity.one_shot import pruned, sparse_weights
from compress.statistics import collect
from tests.compress.test_recovery import HELD_OUT, SHORT, Crops, Small, batch

PATTERN = Sparsity.parse("2:4")


def subjects() -> tuple[fx.GraphModule, fx.GraphModule, CompressedModel, LayerTable]:
    """(dense network, pruned network, the pruned one in 8 bits, its layers); the layer on the image stays dense."""
    torch.manual_seed(0)
    dense = capture(Small(), HELD_OUT[:1])
    table = LayerTable.from_graph(dense, HELD_OUT[:1])
    patterns = {row.name: PATTERN for row in table.rows if row.input_shape[1] % 4 == 0}
    sparse = pruned(dense, table, patterns, batch(0, 8))
    layers = {n: LayerPlan(weight=W8, activation=A8, sparsity=patterns.get(n)) for n, _ in layer_nodes(dense)}
    plan = Plan(architecture="small", device="any", runtime="any", float_precision="fp32", placement=Placement.INPUTS,
                layers=layers)  # fmt: skip
    seen = collect(sparse, batch(0, 8), {site.tensor.name for site in place(sparse, plan)})
    return dense, sparse, set_ranges(sparse, plan, seen), table


def error(model: CompressedModel, dense: fx.GraphModule) -> float:
    with torch.inference_mode():
        return float((model.simulate()(HELD_OUT) - dense(HELD_OUT)).square().mean())


def legal(model: CompressedModel, table: LayerTable) -> bool:
    wanted = sparse_weights(model.graph, table, model.plan.sparse_layers)
    return all(check(model.weights[n].integers, pattern, layout).holds for n, (pattern, layout) in wanted.items())


def test_recovery_trains_kept_weights_against_the_dense_network() -> None:
    dense, sparse, model, table = subjects()
    with torch.inference_mode():
        wanted = dense(HELD_OUT)

    def score(predict: object) -> float:
        assert callable(predict)
        return -float((predict(HELD_OUT) - wanted).square().mean())

    trained = recover(model, dense, Crops(), SHORT, score=score, real=sparse)
    assert trained.after > trained.before
    assert error(trained.model, dense) < 0.7 * error(model, dense)
    assert legal(trained.model, table)
    # Without the pruned weights behind the integers the mask is not known, and pruned weights come back.
    lost = recover(model, dense, Crops(), replace(SHORT, steps=10), score=score)
    assert lost.best_step > 0
    assert not legal(lost.model, table)


def test_reconstruction_matches_the_dense_network_under_the_mask() -> None:
    dense, sparse, model, table = subjects()
    settings = ReconstructionSettings(iterations=40)
    better = reconstruct(model, batch(0, 12), settings=settings, reference=dense, real=sparse)
    assert error(better, dense) < error(model, dense)
    assert legal(better, table)
    assert legal(model, table)
    assert not bool((clone(dense).get_parameter("body.weight") == 0).any())
