"""QuantSettings: how a supernet stands in for quantisation while it is searched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from bitwright.foundation.errors import UsageError


class Mode(StrEnum):
    """What a searched convolution does to its operands."""

    NOISE = "noise"
    """Adds noise of the size of the rounding error; the proposed method (QN)."""
    DIRECT = "direct"
    """Rounds at every bit width and mixes what comes out; weights shared by all bit widths."""
    SEPARATE = "separate"
    """As direct, with weights and a pass for each pair of operation and bit width."""
    FLOAT = "float"
    """Nothing: bit widths then make no difference to the loss."""


class NoiseForm(StrEnum):
    """How noise enters, see the method's section 4."""

    ADDITIVE = "additive"
    """x + sum_b q_b xi_b: unit gain, gradient 1 to x."""
    AUTHORS = "authors"
    """c x + sum_b a_b stopgrad(x + xi_b), as the authors' code has it: gain and gradient depend on the mixture."""


class NoiseKind(StrEnum):
    """Law of the noise."""

    GAUSSIAN = "gaussian"
    UNIFORM = "uniform"
    """Uniform on one step around 0, whatever the scale."""


class NoiseRange(StrEnum):
    """What the step of a bit width is taken from."""

    MINMAX = "minmax"
    """(max - min) / (2^b - 1) over the tensor."""
    LSQ_STEP = "lsq_step"
    """The step that LSQ starts from, 2 mean |x| / sqrt(largest integer)."""


class NoiseSource(StrEnum):
    """Where random numbers come from."""

    FRESH = "fresh"
    """Drawn for each tensor."""
    TABLE = "table"
    """Read from a table of Gaussian numbers at a random place: the same law, without the time to draw."""


class ActQuant(StrEnum):
    """Quantiser of activations, in direct mode and in the network found."""

    LSQ = "lsq"
    HWGQ = "hwgq"
    """Fixed steps for unit-variance input; for reproductions."""


AUTHORS_SCALE = 0.5
IDEAL_SCALE = 1 / math.sqrt(12)
"""Standard deviation, in steps, of an ideal quantiser's error."""


@dataclass(frozen=True)
class QuantSettings:
    """`noise_scale`: standard deviation of Gaussian noise in steps. `merge`: one draw in place of one a bit width."""

    mode: Mode = Mode.NOISE
    form: NoiseForm = NoiseForm.ADDITIVE
    kind: NoiseKind = NoiseKind.GAUSSIAN
    range: NoiseRange = NoiseRange.MINMAX
    source: NoiseSource = NoiseSource.FRESH
    noise_scale: float = AUTHORS_SCALE
    merge: bool = True
    act_quant: ActQuant = ActQuant.LSQ

    def __post_init__(self) -> None:
        """UsageError for settings that exclude each other."""
        if not 0 < self.noise_scale <= 4:
            raise UsageError(f"noise_scale is in steps, above 0 and at most 4, not {self.noise_scale}")
        plain = self.kind is NoiseKind.GAUSSIAN and self.form is NoiseForm.ADDITIVE
        if self.source is NoiseSource.TABLE and not (plain and self.merge):
            raise UsageError("a table of noise serves merged Gaussian noise in the additive form only")

    @property
    def merged(self) -> bool:
        """Whether one Gaussian stands for the weighted sum of one a bit width, which has the same law."""
        return self.merge and self.kind is NoiseKind.GAUSSIAN and self.form is NoiseForm.ADDITIVE
