"""ClassificationFormat: what a classifier takes and gives, apart from its weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassificationFormat:
    """Input and output of an image classifier.

    `mean` and `std` normalise RGB in 0..1; `input_size` is the side of the square input in pixels; the network gives
    `classes` logits.
    """

    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: int
