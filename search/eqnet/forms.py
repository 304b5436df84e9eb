"""Form: granularity and symmetry, the part of a quantiser that a back end dictates; and the integer grid of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from compress.quantizers import Granularity, QuantFormat

WIDEST, NARROWEST = 8, 2
NARROW_FROM = 4
"""From this width on, symmetric grids are those of runtimes, -(2^(b-1) - 1) ... 2^(b-1) - 1. Below it no runtime of the
catalogue has a kernel, and the code that this leaves out is one of four or eight: there the grid starts at -2^(b-1)."""


class OffsetMode(StrEnum):
    """How an asymmetric grid is shifted."""

    INTEGER = "integer"
    """By an integer zero point, so that 0.0 is exact: what integer kernels do."""
    FLOAT = "float"
    """By any real number, as the authors' release does; such a subnet is quantised anew when it is exported."""


@dataclass(frozen=True, order=True)
class Form:
    """One of eight: weights per tensor or per output channel, weights and activations symmetric (no offset) or not."""

    granularity: Granularity
    weight_symmetric: bool
    activation_symmetric: bool

    @property
    def index(self) -> int:
        """Number of the form, 0 ... 7."""
        return 4 * (self.granularity is Granularity.CHANNEL) + 2 * self.weight_symmetric + self.activation_symmetric

    @property
    def name(self) -> str:
        """Such as channel-sym-asym: granularity, weights, activations."""
        weight, activation = ("sym" if s else "asym" for s in (self.weight_symmetric, self.activation_symmetric))
        return f"{self.granularity.value}-{weight}-{activation}"


FORMS = tuple(
    Form(granularity, weight, activation)
    for granularity in (Granularity.TENSOR, Granularity.CHANNEL)
    for weight in (False, True)
    for activation in (False, True)
)
"""All forms, in the order of their index."""


def weight_grid(bits: int, granularity: Granularity, symmetric: bool) -> QuantFormat:
    """The integers of a weight. Symmetric means no offset: below NARROW_FROM bits the range is not symmetric."""
    return QuantFormat(bits=bits, granularity=granularity, symmetric=symmetric and bits >= NARROW_FROM, signed=True)


def activation_grid(bits: int, symmetric: bool, signed: bool) -> QuantFormat:
    """The integers of an activation: unsigned where it is never negative, and then without offset if `symmetric`."""
    narrow = symmetric and signed and bits >= NARROW_FROM
    return QuantFormat(bits=bits, granularity=Granularity.TENSOR, symmetric=narrow, signed=signed)
