"""Architecture: a network that is recognised by the keys of its state dict and rebuilt from its shapes."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from workloads.classification.format import ClassificationFormat
from workloads.super_resolution.format import SRFormat

StateDict = Mapping[str, Tensor]


class Network(nn.Module, ABC):
    """A module that knows what it takes and gives."""

    @property
    @abstractmethod
    def io(self) -> SRFormat | ClassificationFormat:
        """The format of its input and output."""

    def resolve(self, scale: int | None) -> Network:
        """The loaded network for one scale factor; None leaves the choice to the weights.

        Raises ValueError, saying which scales there are, where the weights do not serve `scale` or leave it open.
        """
        held = self.io.scale if isinstance(self.io, SRFormat) else None
        if scale not in (None, held):
            raise ValueError(f"has no weights for x{scale}" + (f", only for x{held}" if held else ""))
        return self


@dataclass(frozen=True)
class Architecture:
    """One row of the recognition table.

    `marks` are keys that every state dict of it has. `build` infers the configuration from the state dict (KeyError or
    IndexError where a mark has an unfit shape) and returns an unloaded network whose keys are the published ones;
    `reference` is the network in its published size, used to name the nearest architecture; `translate` turns another
    repository's key names into ours.
    """

    name: str
    marks: tuple[str, ...]
    build: Callable[[StateDict], Network]
    reference: Callable[[], Network]
    translate: Callable[[StateDict], StateDict] | None = None


def highest_index(keys: Iterable[str], pattern: str) -> int:
    """The largest number that group 1 of `pattern` takes at the start of a key; KeyError if no key matches."""
    found = [int(match[1]) for key in keys if (match := re.match(pattern, key))]
    if not found:
        raise KeyError(pattern)
    return max(found)


def out_channels(state: StateDict, layer: str) -> int:
    """Number of output channels of the convolution `layer`."""
    return state[f"{layer}.weight"].shape[0]


def in_channels(state: StateDict, layer: str) -> int:
    """Number of input channels of the convolution `layer` (of one group)."""
    return state[f"{layer}.weight"].shape[1]


def shuffle_factor(channels_before: int, channels_after: int) -> int:
    """The r of a pixel shuffle between the two channel counts: sqrt(before / after), rounded down."""
    return math.isqrt(channels_before // channels_after)
