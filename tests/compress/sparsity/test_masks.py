"""Masks: exactly N of M on the axis that hardware reads, ties to the lower channel, equal to a plain definition."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity
from compress.sparsity import (
    Axis,
    LayerKind,
    Scored,
    WeightLayout,
    fisher,
    fused_mask,
    input_norm,
    layout_of,
    magnitude,
    nm_mask,
    nm_masks,
    transposable_mask,
)
from compress.sparsity.legality import check
from compress.sparsity.packing import pack, unpack
from compress.sparsity.transposable import tiles
from tests.compress.sparsity.mask_helpers import slow_rows

PATTERNS = [Sparsity.parse(p) for p in ("2:4", "1:4", "4:8", "1:16", "1:32", "3:4", "5:8", "2:6", "7:8", "31:32")]
LINEAR, CONV = WeightLayout(LayerKind.LINEAR), WeightLayout(LayerKind.CONV)
MODULES = [
    nn.Linear(96, 6),
    nn.Conv1d(96, 4, 3),
    nn.Conv2d(96, 4, 3),
    nn.Conv2d(192, 4, (1, 3), groups=2),
    nn.Conv3d(96, 2, 2),
    nn.ConvTranspose1d(96, 4, 3),
    nn.ConvTranspose2d(96, 4, 3),
    nn.ConvTranspose2d(192, 4, 2, groups=2),
    nn.ConvTranspose3d(96, 2, 2),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("module", MODULES, ids=lambda m: f"{type(m).__name__}-{getattr(m, 'groups', 1)}")
def test_every_layout_keeps_n_of_m_input_channels(module: nn.Module, pattern: Sparsity) -> None:
    torch.manual_seed(1)
    layout = layout_of(module)
    assert layout is not None
    # Few distinct values, so that many groups have ties at their n-th score.
    weight = torch.randint(0, 4, module.weight.shape).float()
    mask = nm_mask(weight, pattern, layout)
    assert mask.shape == weight.shape
    assert mask.is_contiguous()
    assert torch.equal(layout.rows(mask), slow_rows(layout.rows(weight), pattern))


def test_canonical_rows_of_each_layout_are_input_channels_at_one_output_and_position() -> None:
    """Row 0 of the canonical view reads the input channels of output 0 at kernel position 0."""
    conv = torch.arange(2 * 4 * 3 * 3).reshape(2, 4, 3, 3)
    assert torch.equal(WeightLayout(LayerKind.CONV).rows(conv)[1], conv[0, :, 0, 1])
    up = torch.arange(4 * 2 * 3 * 3).reshape(4, 2, 3, 3)
    assert torch.equal(WeightLayout(LayerKind.CONV_TRANSPOSE).rows(up)[1], up[:, 0, 0, 1])
    grouped = WeightLayout(LayerKind.CONV_TRANSPOSE, 2)
    assert grouped.rows(up).shape == (2 * 2 * 9, 2)
    assert torch.equal(grouped.rows(up)[2 * 9], up[2:, 0, 0, 0])
    for layout, weight in ((CONV, conv), (grouped, up), (LINEAR, conv.reshape(8, 9))):
        for axis in Axis:
            assert torch.equal(layout.from_rows(layout.rows(weight, axis), tuple(weight.shape), axis), weight)


def test_a_mask_along_outputs_is_the_mask_of_the_transpose() -> None:
    scores = torch.rand(8, 12)
    assert torch.equal(nm_mask(scores, Sparsity(n=2, m=4), LINEAR, Axis.OUTPUT),
                       nm_mask(scores.T, Sparsity(n=2, m=4), LINEAR).T)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("value", [0.0, 0.75])
def test_groups_of_equal_scores_keep_the_first_channels(pattern: Sparsity, value: float) -> None:
    mask = nm_mask(torch.full((3, 2 * pattern.m), value), pattern, LINEAR)
    wanted = (torch.arange(2 * pattern.m) % pattern.m) < pattern.n
    assert torch.equal(mask, wanted.expand(3, -1))


def test_golden_mask() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0, 2.0, -1.0, 2.0]])
    assert nm_mask(scores, Sparsity(n=2, m=4), LINEAR).int().tolist() == [[0, 1, 1, 0, 0, 1, 0, 1]]
    assert nm_mask(scores, Sparsity(n=1, m=8), LINEAR).int().tolist() == [[0, 1, 0, 0, 0, 0, 0, 0]]
    assert nm_mask(scores, Sparsity(n=3, m=4), LINEAR).int().tolist() == [[0, 1, 1, 1, 1, 1, 0, 1]]


def test_infinite_scores_and_half_precision_weights_follow_the_rule() -> None:
    scores = torch.tensor([[-torch.inf, -torch.inf, torch.inf, 1.0, torch.inf, torch.inf]])
    assert nm_mask(scores, Sparsity(n=2, m=6), LINEAR).int().tolist() == [[0, 0, 1, 0, 1, 0]]
    assert nm_mask(scores[:, :3], Sparsity(n=2, m=3), LINEAR).int().tolist() == [[1, 0, 1]]
    weight = torch.randn(4, 16)
    half = weight.to(torch.bfloat16)
    pattern = Sparsity(n=1, m=8)
    assert torch.equal(nm_mask(magnitude(half), pattern, LINEAR), nm_mask(half.float().abs(), pattern, LINEAR))


def test_nan_is_an_error_that_names_the_layer() -> None:
    for pattern in (Sparsity(n=2, m=4), Sparsity(n=4, m=4), Sparsity(n=3, m=4)):
        broken = torch.ones(2, 8)
        broken[1, 5] = torch.nan
        with pytest.raises(UsageError, match=r"layer 'body\.2' hold NaN"):
            nm_masks({"body.1": Scored(torch.ones(2, 8), LINEAR), "body.2": Scored(broken, LINEAR)}, pattern)


def test_nan_does_not_hide_behind_ties() -> None:
    """A group with NaN keeps too few and an all-tied one too many: their numbers may cancel out."""
    scores = torch.tensor([[torch.nan, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    with pytest.raises(UsageError, match="hold NaN"):
        nm_mask(scores, Sparsity(n=2, m=4), LINEAR)


def test_groups_never_reach_into_the_next_row() -> None:
    """Trap: a 3-channel stem of 8 filters holds a multiple of 8 weights, and a plain reshape groups across filters."""
    stem = torch.rand(8, 3, 3, 3)
    assert stem.numel() % 8 == 0
    with pytest.raises(UsageError, match="3 channels are fewer than a group of 8"):
        nm_mask(stem, Sparsity(n=1, m=8), CONV)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((5, 10), LINEAR),
        ((4, 6, 3, 2), CONV),
        ((4, 6, 1, 1), WeightLayout(LayerKind.CONV, 2)),
        ((12, 3, 2, 2), WeightLayout(LayerKind.CONV_TRANSPOSE, 2)),
    ],
)
@pytest.mark.parametrize("text", ["2:4", "1:4", "3:4"])
def test_the_last_group_of_a_row_may_be_short(shape: tuple[int, ...], layout: WeightLayout, text: str) -> None:
    """It keeps at most N of what it has, by the same order; so does a row that is filled up with zeros."""
    torch.manual_seed(4)
    scores, pattern = torch.rand(shape), Sparsity.parse(text)
    mask = nm_mask(scores, pattern, layout)
    assert mask.shape == scores.shape
    rows, kept = layout.rows(scores), layout.rows(mask)
    assert rows.shape[1] % pattern.m
    for values, own in zip(rows, kept, strict=True):
        for start in range(0, len(values), pattern.m):
            group = values[start : start + pattern.m]
            best = group.topk(min(pattern.n, len(group))).indices
            assert set(own[start : start + pattern.m].nonzero().flatten().tolist()) == set(best.tolist())
    pruned = scores * mask
    assert check(pruned, pattern, layout).holds
    assert torch.equal(unpack(pack(pruned, pattern, layout)), pruned)
    assert not check(scores, pattern, layout).holds


def test_masks_of_many_layers_are_those_of_each() -> None:
    torch.manual_seed(3)
    layers = {
        "a": Scored(torch.rand(5, 16), LINEAR),
        "b": Scored(torch.rand(3, 8, 3, 3), CONV),
        "c": Scored(torch.rand(16, 2, 2, 2), WeightLayout(LayerKind.CONV_TRANSPOSE, 2)),
    }
    together = nm_masks(layers, Sparsity(n=1, m=4))
    for name, layer in layers.items():
        assert torch.equal(together[name], nm_mask(layer.scores, Sparsity(n=1, m=4), layer.layout))


def test_masks_of_many_layers_hold_memory_of_their_own() -> None:
    """A shared one would be written whole with each mask, and safetensors refuses it."""
    layers = {name: Scored(torch.rand(4, 8), LINEAR) for name in "ab"} | {"c": Scored(torch.rand(4, 6), LINEAR)}
    masks = nm_masks(layers, Sparsity(n=2, m=4))
    assert len({mask.untyped_storage().data_ptr() for mask in masks.values()}) == 3
    assert all(mask.untyped_storage().nbytes() == mask.numel() for mask in masks.values())


def test_fused_projections_carry_their_own_patterns() -> None:
    weight = torch.rand(12, 8)
    patterns = (Sparsity(n=1, m=4), None, Sparsity(n=2, m=4))
    mask = fused_mask(weight, patterns, LINEAR)
    assert mask[:4].sum().item() == 4 * 2
    assert bool(mask[4:8].all())
    assert mask[8:].sum().item() == 4 * 4
    with pytest.raises(UsageError, match="12 rows cannot hold 5"):
        fused_mask(weight, [None] * 5, LINEAR)


def test_there_are_ninety_transposable_tiles_and_the_best_one_is_taken() -> None:
    assert tiles().shape == (90, 4, 4)
    assert bool((tiles().sum(1) == 2).all() and (tiles().sum(2) == 2).all())
    torch.manual_seed(0)
    for layout, shape in (
        (LINEAR, (8, 12)),
        (CONV, (4, 8, 3, 3)),
        (WeightLayout(LayerKind.CONV_TRANSPOSE), (8, 4, 2, 2)),
    ):
        scores = torch.rand(shape)
        mask = transposable_mask(scores, layout)
        for axis in Axis:
            assert bool((layout.rows(mask, axis).unflatten(1, (-1, 4)).sum(2) == 2).all())
    scores = torch.rand(4, 4)
    best = max(float((scores * t).sum()) for t in tiles())
    assert float((scores * transposable_mask(scores, LINEAR)).sum()) == pytest.approx(best)
    assert torch.equal(transposable_mask(torch.ones(4, 4), LINEAR), tiles()[0])
    with pytest.raises(UsageError, match="6 input"):
        transposable_mask(torch.rand(4, 6), LINEAR)


def test_input_norms_multiply_the_channels_that_each_group_reads() -> None:
    weight, norms = torch.ones(4, 2, 1, 1), torch.tensor([1.0, 2.0, 3.0, 4.0])
    grouped = input_norm(weight, norms, WeightLayout(LayerKind.CONV, 2)).reshape(4, 2)
    assert grouped.tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    up = input_norm(torch.ones(4, 1, 1, 1), norms, WeightLayout(LayerKind.CONV_TRANSPOSE, 2))
    assert up.flatten().tolist() == [1, 2, 3, 4]
    scaled = torch.tensor([8.0, 0.5, 2.0, 1.0])
    linear = torch.randn(3, 4)
    assert torch.allclose(input_norm(linear / scaled, norms * scaled, LINEAR), input_norm(linear, norms, LINEAR))
    with pytest.raises(UsageError, match="norms"):
        input_norm(linear, norms[:3], LINEAR)


def test_fisher_orders_by_the_loss_of_removal() -> None:
    """On a quadratic loss with a diagonal Hessian F the score is twice the exact increase."""
    weight, information = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[4.0, 0.25, 8.0]])
    assert fisher(weight, information).tolist() == [[4.0, 1.0, 2.0]]


@pytest.mark.parametrize(("text", "fits"), [("2:4", True), ("1:2", True), ("1:8", True), ("2:16", True), ("4:8", False),
                                            ("1:6", False), ("1:3", False)])  # fmt: skip
def test_masks_that_sparse_tensor_cores_read(text: str, fits: bool) -> None:
    pattern = Sparsity.parse(text)
    assert pattern.fits_two_of_four() is fits
    channels = 4 * pattern.m
    worst = torch.zeros(1, channels)
    worst.view(-1, pattern.m)[0::2, -pattern.n :] = 1
    worst.view(-1, pattern.m)[1::2, : pattern.n] = 1
    mask = nm_mask(worst, pattern, LINEAR)
    if fits:
        assert int(mask.unflatten(1, (-1, 4)).sum(2).max()) <= 2


@pytest.mark.parametrize("text", ["4:2", "0:4", "2", "2:4:8", "a:b", "1:1"])
def test_patterns_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="N:M"):
        Sparsity.parse(text)


def test_halving_never_loses_the_last_kept_weight() -> None:
    chain = [Sparsity.parse("3:16")]
    while (half := chain[-1].halved()) is not None:
        chain.append(half)
    assert [str(p) for p in chain] == ["3:16", "1:8", "1:4", "1:2"]
    assert all(b.m * 2 == a.m for a, b in pairwise(chain))
