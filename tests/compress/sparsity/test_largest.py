"""The n largest of each group: any pattern, in blocks of any size, of scores or of magnitudes; NaN is found."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.foundation.errors import UsageError
from compress.nm_pattern import Sparsity
from compress.sparsity import LayerKind, Scored, WeightLayout, magnitude, nm_mask, nm_masks
from compress.sparsity.masks import keep_largest
from compress.sparsity.selection import nth_largest
from tests.compress.sparsity.mask_helpers import slow_rows

LINEAR, CONV = WeightLayout(LayerKind.LINEAR), WeightLayout(LayerKind.CONV)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_pattern_equals_the_stable_sort(draw: st.DataObject) -> None:
    m = draw.draw(st.integers(2, 40))
    n = draw.draw(st.integers(1, m))
    seed, kinds = draw.draw(st.integers(0, 2**31)), draw.draw(st.sampled_from([2, 5, 1000]))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-kinds, kinds, (m, 17), generator=generator).float()
    kept = keep_largest(scores.clone(), n)
    assert torch.equal(kept, slow_rows(scores.T.contiguous(), Sparsity(n=n, m=m)).T)
    assert torch.equal(nth_largest(scores.clone(), n), scores.sort(0, descending=True).values[n - 1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_blocks_of_any_size_make_no_difference(draw: st.DataObject) -> None:
    """Layers that share a block, fill several or none, with ties in some of them."""
    m = draw.draw(st.integers(2, 9))
    pattern = Sparsity(n=draw.draw(st.integers(1, m - 1)), m=m)
    torch.manual_seed(draw.draw(st.integers(0, 2**31)))
    layers = {}
    for name in range(draw.draw(st.integers(1, 5))):
        rows, count, side = (draw.draw(st.integers(1, 4)) for _ in range(3))
        kinds = draw.draw(st.sampled_from([2, 2**20]))
        layers[str(name)] = Scored(torch.randint(-kinds, kinds, (rows, count * m, side, 1)).float(), CONV)
    size = draw.draw(st.integers(1, 200))
    with patch("compress.sparsity.largest.BLOCK", size), patch("compress.sparsity.masks.BLOCK", size):
        masks = nm_masks(layers, pattern)
        of_magnitudes = nm_masks(layers, pattern, magnitudes=True)
    assert list(masks) == list(layers)
    for name, layer in layers.items():
        assert torch.equal(CONV.rows(masks[name]), slow_rows(CONV.rows(layer.scores), pattern))
        assert torch.equal(CONV.rows(of_magnitudes[name]), slow_rows(CONV.rows(layer.scores.abs()), pattern))


@pytest.mark.parametrize("text", ["2:4", "1:4", "3:4", "4:8"])
@pytest.mark.parametrize("channels", [8, 10, 15])
def test_magnitudes_of_signed_weights_are_taken_as_if_they_were_given(text: str, channels: int) -> None:
    """Also where the last group is short, and where all its weights are zero."""
    weight = torch.randint(-2, 3, (64, channels)).to(torch.bfloat16)
    pattern = Sparsity.parse(text)
    found = nm_masks({"a": Scored(weight, LINEAR)}, pattern, magnitudes=True)["a"]
    assert torch.equal(found, nm_mask(magnitude(weight), pattern, LINEAR))
    weight[5, 3] = -torch.nan
    with pytest.raises(UsageError, match="layer 'a' hold NaN"):
        nm_masks({"a": Scored(weight, LINEAR)}, pattern, magnitudes=True)


def test_a_nan_is_found_in_any_member_of_a_group() -> None:
    for m in (2, 3, 4, 5, 8, 12, 16):
        for n in range(1, m + 1):
            for place in range(m):
                scores = torch.rand(m, 3)
                scores[place, 1] = torch.nan
                with pytest.raises(UsageError, match="hold NaN"):
                    keep_largest(scores, n)
