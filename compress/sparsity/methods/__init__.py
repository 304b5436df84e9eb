"""Methods of sparse training, each in a file of its own, and the table of their standard forms.

A method is a pure function from the global step to an `Action`; `compress.sparsity.training` carries actions out.
"""

from compress.sparsity.methods.dense import Dense
from compress.sparsity.methods.mask_decay import MaskDecay
from compress.sparsity.methods.method import Method
from compress.sparsity.methods.one_shot import OneShot
from compress.sparsity.methods.pulled import Pulled
from compress.sparsity.methods.sr_ste import SparseRefined
from compress.sparsity.methods.ste import StraightThrough
from compress.sparsity.methods.structure_decay import Frames, StructureDecay
from compress.sparsity.schedules import ExponentialDecay, LinearDecay

METHODS: dict[str, Method] = {
    "dense": Dense(),
    "one_shot": OneShot(),
    "ste": StraightThrough(),
    "ste_frozen": StraightThrough(freezes=True),
    "sr_ste": SparseRefined(),
    "sr_ste_frozen": SparseRefined(freezes=True),
    "mdgf_linear": MaskDecay(LinearDecay()),
    "mdgf_exponential": MaskDecay(ExponentialDecay()),
    "mdgf_linear_ste": MaskDecay(LinearDecay(), restricted=False),
    "mdgf_exponential_ste": MaskDecay(ExponentialDecay(), restricted=False),
    "sdgf_stepwise": StructureDecay(Frames.STEPWISE),
    "sdgf_geometric": StructureDecay(Frames.GEOMETRIC),
    "sdgf_stepwise_hard": StructureDecay(Frames.STEPWISE, restricted=True),
    "sdgf_geometric_hard": StructureDecay(Frames.GEOMETRIC, restricted=True),
    "sr_mdgf_exponential": Pulled(MaskDecay(ExponentialDecay())),
    "sr_sdgf_stepwise": Pulled(StructureDecay(Frames.STEPWISE)),
}
"""Every method in the form that comparisons use."""

__all__ = [
    "METHODS",
    "Dense",
    "Frames",
    "MaskDecay",
    "Method",
    "OneShot",
    "Pulled",
    "SparseRefined",
    "StraightThrough",
    "StructureDecay",
]
