"""N:M sparsity: at most N weights other than zero in each group of M along the input channels.

- `layouts`: where groups lie in each kind of weight; `masks`, `transposable`: which weights are kept; `scores`: by what
- `eligibility`: which layers may carry a pattern, and why the others stay dense
- `schedules`, `methods`: what is done at each step, as pure functions of it; `training`: who does it
- `captured`: a captured network whose pruned weights are modules, so that it can be trained so
- `diagnostics`: noise, flips and what is retained; `cost`: FLOPs of a training
- `storage`, `packing`, `packed_file`: what a packed weight takes, and its file; `legality`: whether a pattern is kept
- `second_order`, `masked_least_squares`: pruning of a captured network layer by layer, what is kept solved for anew
- `one_shot`: the same by a score alone; `permutation`, `sensitivity`, `assignment`: ahead of it, and a pattern for each
  layer
"""

from compress.nm_pattern import Sparsity
from compress.sparsity.eligibility import Decision, decide
from compress.sparsity.layouts import Axis, LayerKind, WeightLayout, layout_of
from compress.sparsity.masks import Scored, fused_mask, nm_mask, nm_masks
from compress.sparsity.methods import METHODS, Method
from compress.sparsity.schedules import Phases
from compress.sparsity.scores import fisher, input_norm, magnitude
from compress.sparsity.step_adam import StepAdam
from compress.sparsity.training import Restrict, SparseTraining
from compress.sparsity.transposable import transposable_mask

__all__ = [
    "METHODS",
    "Axis",
    "Decision",
    "LayerKind",
    "Method",
    "Phases",
    "Restrict",
    "Scored",
    "SparseTraining",
    "Sparsity",
    "StepAdam",
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
