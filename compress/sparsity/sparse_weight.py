"""SparseWeight: a parametrisation that turns the master weight W into the weight of the forward product.

Two identities give all methods without custom autograd functions, so that autocast and torch.compile see plain
arithmetic: W * s gives the gradient s * G, and W + ((s - 1) * W) with the second term detached gives G.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.sparsity.action import DENSE, Action


class SparseWeight(nn.Module):
    """Applies an action with a mask. `mask`: bool buffer of the weight's shape, true for what is kept; `beta`: []."""

    mask: Tensor
    beta: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.register_buffer("beta", torch.zeros((), dtype=torch.float32, device=weight.device), persistent=False)
        self.active = self.restricted = False
        self.action = DENSE

    def set(self, action: Action, *, whole_gradient: bool = False) -> None:
        """What the next forward passes do. `whole_gradient`: G in place of s * G, where the optimiser scales steps."""
        self.action = action
        self.active = action.pattern is not None
        self.restricted = action.restricted and (action.frozen or not whole_gradient)
        # A tensor, because a number that changes at each step would be compiled anew each time.
        self.beta.fill_(action.beta)

    def soft(self) -> Tensor:
        """s = m + beta (1 - m), float32."""
        kept = self.mask.to(torch.float32)
        return kept + self.beta * (1.0 - kept)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight of the forward product, in the type of `weight`."""
        if not self.active:
            return weight
        share = self.soft()
        if self.restricted:
            return (weight * share).to(weight.dtype)
        return weight + ((share - 1.0) * weight).to(weight.dtype).detach()
