"""Second moments of what a layer reads, the Hessian of its squared output error: damped, and its inverse factored."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-30
"""Of a mean diagonal: what never was other than zero says nothing, and must not make a matrix singular."""


def damping(moments: Tensor, share: float) -> Tensor:
    """What is added to moments [..., K, K] so that they can be inverted: `share` of their mean diagonal, on it."""
    mean = moments.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(_LEAST)
    eye = torch.eye(moments.shape[-1], dtype=moments.dtype, device=moments.device)
    return share * mean[..., None, None] * eye


def inverse_factor(hessian: Tensor) -> Tensor:
    """Upper U, [..., K, K], with U^T U the inverse of a positive definite `hessian`.

    Its row c, over U_cc, is what columns from c on change by to make up for a change of column c, and U_cc^2 is the
    inverse's own diagonal once the columns before c are settled.
    """
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    return upper
