"""Verification: the best that a search predicted, evaluated truly; the best of these is the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.foundation.progress import track
from search.eqnet.samples import Evaluate
from search.eqnet.space import Configuration


@dataclass(frozen=True)
class Verified:
    """A configuration with its predicted and its true quality."""

    configuration: Configuration
    predicted: float
    true: float


def verify(found: Sequence[tuple[Configuration, float]], evaluate: Evaluate, most: int = 20) -> list[Verified]:
    """The first `most` of (configuration, predicted quality), by descending true quality."""
    checked = [
        Verified(configuration, predicted, evaluate(configuration))
        for configuration, predicted in track(list(found[:most]), "verifying what the search found")
    ]
    return sorted(checked, key=lambda one: -one.true)
