"""SRFormat: what a super-resolution network takes and gives, apart from its weights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Color(StrEnum):
    """The channels that a network sees."""

    RGB = "rgb"
    Y = "y"


class Luma(StrEnum):
    """How a Y-only network's channel is made of 8-bit RGB (BT.601): 16..235 or 0..255."""

    STUDIO = "studio"
    FULL = "full"


@dataclass(frozen=True)
class SRFormat:
    """Input and output of a super-resolution network.

    `value_max` is the network's value for an 8-bit 255 (1.0 or 255.0). `min_input_side` is the least height and width
    in LR pixels. `halo` is the number of LR pixels that a tile must be extended by for its centre to be exact; None
    where no finite number will do (see `workloads.receptive_field`).
    """

    scale: int
    color: Color
    value_max: float
    luma: Luma = Luma.STUDIO
    min_input_side: int = 1
    halo: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no network has."""
        if self.scale < 1:
            raise ValueError(f"scale must be at least 1, not {self.scale}")
        if self.value_max not in (1.0, 255.0):
            raise ValueError(f"value_max must be 1.0 or 255.0, not {self.value_max}")

    @property
    def channels(self) -> int:
        """Number of input and output channels."""
        return 3 if self.color is Color.RGB else 1
