"""Candidate operations of a searched layer: a token such as `growth2_3x3` stands for a chain of convolutions.

Source: the candidates of QuantNAS (Shvetsov et al., arXiv 2208.14839) and of the code behind it. Every convolution is
without bias, of stride 1, padded to keep the size, and preceded by its own activation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from bitwright.foundation.errors import UsageError

KNOWN = (
    "simple_KxK, simple_KxK_dD, simple_KxK_grouped_G, simple_KxK_grouped_G_dD, simple_KxK_grouped_full, "
    "conv_Kx1_1xK, growthG_KxK, decenc_KxK_R, decenc_KxK_R_gG, DWS_KxK, KxK_increase_F, KxK_decrease_F, "
    "skip_connect, zero"
)


@dataclass(frozen=True)
class ConvSpec:
    """One bias-free convolution. `padding` None: as much as keeps the size at stride 1."""

    inputs: int
    outputs: int
    kernel: tuple[int, int]
    groups: int = 1
    dilation: int = 1
    stride: int = 1
    padding: int | None = None

    def __post_init__(self) -> None:
        """ValueError for channels that cannot be, or that the groups do not divide."""
        if min(self.inputs, self.outputs) < 1:
            raise ValueError(f"a convolution from {self.inputs} to {self.outputs} channels cannot be")
        if self.inputs % self.groups or self.outputs % self.groups:
            raise ValueError(f"{self.groups} groups do not divide {self.inputs} and {self.outputs} channels")

    @property
    def pads(self) -> tuple[int, int]:
        """Rows and columns of zeros on each side."""
        if self.padding is not None:
            return self.padding, self.padding
        return (self.kernel[0] - 1) // 2 * self.dilation, (self.kernel[1] - 1) // 2 * self.dilation

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """[outputs, inputs of one group, height, width]."""
        return self.outputs, self.inputs // self.groups, *self.kernel

    @property
    def macs_per_position(self) -> int:
        """Multiply-accumulates for each output position."""
        return self.outputs * (self.inputs // self.groups) * self.kernel[0] * self.kernel[1]

    @property
    def reach(self) -> int:
        """Farthest row or column that an output position reads."""
        return max((side - 1) // 2 for side in self.kernel) * self.dilation


@dataclass(frozen=True)
class Operation:
    """A chain of convolutions. Before the first one the channels are repeated `tile_before` times, behind the last one
    `tile_after` times. Without convolutions it is the identity, or nothing at all where `is_zero`.
    """

    token: str
    convs: tuple[ConvSpec, ...]
    tile_before: int = 1
    tile_after: int = 1
    is_zero: bool = False

    @property
    def macs_per_position(self) -> int:
        """Multiply-accumulates for each position."""
        return sum(conv.macs_per_position for conv in self.convs)

    @property
    def parameters(self) -> int:
        """Weights."""
        return sum(conv.macs_per_position for conv in self.convs)

    @property
    def reach(self) -> int:
        """Farthest row or column that an output position depends on."""
        return sum(conv.reach for conv in self.convs)


def operation(token: str, inputs: int, outputs: int, width: int) -> Operation:
    """The operation of a token between `inputs` and `outputs` channels in a space of `width` channels.

    UsageError for an unknown token and for channels that the operation cannot have.
    """
    for pattern, make in _PATTERNS:
        match = re.fullmatch(pattern, token)
        if match:
            try:
                return make(token, match, inputs, outputs, width)
            except ValueError as error:
                raise UsageError(f"{token} does not fit {inputs} -> {outputs} channels: {error}") from error
    raise UsageError(f"{token!r} is not an operation; known are {KNOWN} (K, G, R, D, F: numbers)")


def _side(match: re.Match[str]) -> tuple[int, int]:
    side = int(match["k"])
    if match["k2"] != match["k"] or side % 2 == 0:
        raise ValueError("kernels are square and odd")
    return side, side


def _simple(token: str, match: re.Match[str], inputs: int, outputs: int, width: int) -> Operation:
    groups = inputs if match["g"] == "full" else int(match["g"] or 1)
    return Operation(token, (ConvSpec(inputs, outputs, _side(match), groups, int(match["d"] or 1)),))


def _separable(token: str, match: re.Match[str], inputs: int, outputs: int, width: int) -> Operation:
    side, _ = _side(match)
    return Operation(token, (ConvSpec(inputs, width, (side, 1)), ConvSpec(width, outputs, (1, side))))


def _growth(token: str, match: re.Match[str], inputs: int, outputs: int, width: int) -> Operation:
    inner, kernel = int(match["growth"]) * width, _side(match)
    return Operation(token, (ConvSpec(inputs, inner, kernel), ConvSpec(inner, outputs, kernel)))


def _decenc(token: str, match: re.Match[str], inputs: int, outputs: int, width: int) -> Operation:
    factor, groups, kernel = int(match["r"]), int(match["g"] or 1), _side(match)
    if width % factor:
        raise ValueError(f"a width of {width} channels cannot be divided by {factor}")
    inner = width // factor
    ends = ((inputs, inner), (inner, inner), (inner, outputs))
    return Operation(token, tuple(ConvSpec(a, b, kernel, groups) for a, b in ends))


def _depthwise(token: str, match: re.Match[str], inputs: int, outputs: int, width: int) -> Operation:
    # The code behind the paper ignores the kernel size here and widens four times; this is the operation it is named
    # after: depthwise, then pointwise.
    return Operation(token, (ConvSpec(inputs, inputs, _side(match), inputs), ConvSpec(inputs, outputs, (1, 1))))


def _tiled(token: str, match: re.Match[str], inputs: int, outputs: int, width: int) -> Operation:
    factor, kernel = int(match["f"]), _side(match)
    if match["way"] == "increase":
        return Operation(token, (ConvSpec(inputs * factor, outputs, kernel),), tile_before=factor)
    if outputs % factor:
        raise ValueError(f"{outputs} channels cannot be divided by {factor}")
    return Operation(token, (ConvSpec(inputs, outputs // factor, kernel),), tile_after=factor)


def _identity(token: str, match: re.Match[str], inputs: int, outputs: int, width: int) -> Operation:
    if inputs != outputs:
        raise ValueError("the identity needs as many output as input channels")
    return Operation(token, ())


def _zero(token: str, match: re.Match[str], inputs: int, outputs: int, width: int) -> Operation:
    return Operation(token, (), is_zero=True)


_K = r"(?P<k>\d+)x(?P<k2>\d+)"
_Make = Callable[[str, "re.Match[str]", int, int, int], Operation]
_PATTERNS: tuple[tuple[str, _Make], ...] = (
    (rf"simple_{_K}(?:_grouped_(?P<g>full|[1-9]\d*))?(?:_d(?P<d>[1-9]\d*))?", _simple),
    (r"conv_(?P<k>\d+)x1_1x(?P<k2>\d+)", _separable),
    (rf"growth(?P<growth>[1-9]\d*)_{_K}", _growth),
    (rf"decenc_{_K}_(?P<r>[1-9]\d*)(?:_g(?P<g>[1-9]\d*))?", _decenc),
    (rf"DWS_{_K}", _depthwise),
    (rf"{_K}_(?P<way>increase|decrease)_(?P<f>[2-9])", _tiled),
    (r"skip_connect", _identity),
    (r"zero", _zero),
)
