"""N:M sparsity: at most N weights other than zero in each group of M along the input channels.

- `layouts`: where groups lie in each kind of weight; `masks`, `transposable`: which weights are kept; `scores`: by what
- `eligibility`: which layers may carry a pattern, and why the others stay dense
"""

from compress.nm_pattern import Sparsity
from compress.sparsity.eligibility import Decision, decide
from compress.sparsity.layouts import Axis, LayerKind, WeightLayout, layout_of
from compress.sparsity.masks import Scored, fused_mask, nm_mask, nm_masks
from compress.sparsity.scores import fisher, input_norm, magnitude
from compress.sparsity.transposable import transposable_mask

__all__ = [
    "Axis",
    "Decision",
    "LayerKind",
    "Scored",
    "Sparsity",
    "WeightLayout",
    "decide",
    "fisher",
    "fused_mask",
    "input_norm",
    "layout_of",
    "magnitude",
    "nm_mask",
    "nm_masks",
    "transposable_mask",
]
