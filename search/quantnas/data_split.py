"""The training pictures in three parts: for weights, for the architecture, and to compare epochs by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bitwright.foundation.errors import UsageError
from compress.training.samples import Pairs
from workloads.super_resolution.training_data import PatchDataset


class _Settings(Protocol):
    share: float
    seed: int


@dataclass(frozen=True)
class Split:
    """Three data sets without a picture in common. `pictures`: the numbers behind each, for the record."""

    weights: PatchDataset
    architecture: PatchDataset
    selection: PatchDataset
    pictures: dict[str, tuple[int, ...]]


def split_by_picture(data: Pairs, share: float, seed: int) -> Split:
    """Half of `share` of the pictures for weights, half for the architecture, the rest to compare epochs by.

    Patches of one picture overlap, so that a split of patches would not separate anything. UsageError for fewer than
    three pictures, or samples that are no patches of pictures.
    """
    if not isinstance(data, PatchDataset):
        raise UsageError("a search needs patches of pictures to train on; give it a super-resolution task")
    count = data.pictures
    if count < 3:
        raise UsageError(f"a search splits its pictures in three parts; {count} are too few")
    order = [int(number) for number in np.random.default_rng(seed).permutation(count)]
    each = min(max(1, int(0.5 * share * count)), (count - 1) // 2)
    parts = {"weights": order[:each], "architecture": order[each : 2 * each], "selection": order[2 * each :]}
    made = [data.part(sorted(numbers), seed + place) for place, numbers in enumerate(parts.values())]
    return Split(made[0], made[1], made[2], {name: tuple(sorted(numbers)) for name, numbers in parts.items()})
