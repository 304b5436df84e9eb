"""Union-find over positive scalars that are tied by powers: every member's logarithm is a multiple of its group's."""

from __future__ import annotations

FIXED = 0
"""The group whose logarithm is zero: its members cannot be scaled."""


class ScalarGroups:
    """Scalars 1, 2, ... as they are added; scalar 0 is the constant one. log(scalar) = exponent * log(root)."""

    def __init__(self) -> None:
        self._parent = [FIXED]
        self._exponent = [1.0]

    def add(self, count: int) -> list[int]:
        """`count` new free scalars, as their indices."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        self._exponent.extend([1.0] * count)
        return list(range(start, start + count))

    def find(self, scalar: int) -> tuple[int, float]:
        """Root and exponent of a scalar; the root is FIXED where the scalar is one."""
        path = []
        while self._parent[scalar] != scalar:
            path.append(scalar)
            scalar = self._parent[scalar]
        exponent = 1.0
        for member in reversed(path):
            exponent *= self._exponent[member]
            self._parent[member], self._exponent[member] = scalar, exponent
        return scalar, (self._exponent[path[0]] if path else 1.0)

    def fix(self, scalar: int) -> None:
        """Make a scalar, and so its whole group, one."""
        root, _ = self.find(scalar)
        self._parent[root], self._exponent[root] = FIXED, 1.0

    def tie(self, left: int, right: int, power: float = 1.0) -> None:
        """Require left = right ** power. Groups that cannot satisfy it except by one are fixed."""
        root_left, exponent_left = self.find(left)
        root_right, exponent_right = self.find(right)
        if FIXED in {root_left, root_right}:
            self.fix(left)
            self.fix(right)
        elif root_left == root_right:
            if abs(exponent_left - power * exponent_right) > 1e-9:
                self.fix(left)
        else:
            self._parent[root_left] = root_right
            self._exponent[root_left] = power * exponent_right / exponent_left
