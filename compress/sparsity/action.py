"""What a method of sparse training does at one step of one layer: the pattern, the soft mask and the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from compress.nm_pattern import Sparsity


@dataclass(frozen=True)
class Action:
    """The forward weight is s * W with s = m + beta (1 - m); G is its gradient.

    `pattern`: of the mask m; None: the layer is dense. `restricted`: the optimiser receives s * G in place of G.
    `pull`: lambda of the term lambda (1 - m) * W that is added to the gradient. `frozen`: m does not move any more, and
    what it prunes is exactly zero in weights and moments.
    """

    pattern: Sparsity | None = None
    beta: float = 0.0
    restricted: bool = False
    pull: float = 0.0
    frozen: bool = False

    @property
    def hard(self) -> bool:
        """Whether pruned weights take no part in the forward product."""
        return self.pattern is not None and self.beta == 0.0


DENSE = Action()


def fixed(target: Sparsity) -> Action:
    """Training under a mask that stands: masked weights, masked gradients."""
    return Action(target, restricted=True, frozen=True)
