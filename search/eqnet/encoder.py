"""Encoder: a configuration as the one-hot vector that the accuracy predictor reads, and back."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import UsageError
from search.eqnet.forms import FORMS, WIDEST, Form
from search.eqnet.space import Configuration, ElasticSpace, LayerChoice

ENCODER = 1
"""Version of the layout; a predictor of another one is refused."""

Bits = NDArray[np.int64]
"""Widths of a population, [members, layers, 2]: of weights and of the layer's input, in the order of the space."""

_CONDITION = 6


class Encoder:
    """3 attributes of the form, both values of each one-hot; then the widths of the free layers, one-hot.

    One form for the whole network, as in the release (the paper's text has one per layer). Pinned layers have no slots.
    """

    def __init__(self, space: ElasticSpace) -> None:
        self.space = space
        self._slots = np.full((len(space.layers), 2, WIDEST + 1), -1)
        at = _CONDITION
        for number in space.free:
            layer = space.layers[number]
            for kind, allowed in enumerate((layer.weight_bits, layer.activation_bits)):
                for bits in allowed:
                    self._slots[number, kind, bits] = at
                    at += 1
        self.width = at

    @cached_property
    def _free(self) -> NDArray[np.int64]:
        return np.array(self.space.free, np.int64)

    def encode(self, bits: Bits, form: Form | NDArray[np.int64]) -> NDArray[np.float32]:
        """[members, width] of widths [members, layers, 2] and a form, or the forms' indices [members]."""
        index = np.full(len(bits), form.index) if isinstance(form, Form) else form
        rows = np.arange(len(bits))[:, None]
        result = np.zeros((len(bits), self.width), np.float32)
        attributes = np.stack([index >> 2 & 1, index >> 1 & 1, index & 1], 1)
        result[rows, attributes + 2 * np.arange(3)] = 1.0
        if len(self._free):
            slots = self._slots[self._free[None, :, None], np.arange(2)[None, None, :], bits[:, self._free]]
            if (slots < 0).any():
                raise UsageError("a width that its layer does not have cannot be encoded")
            result[rows, slots.reshape(len(bits), -1)] = 1.0
        return result

    def decode(self, code: NDArray[np.float32]) -> Configuration:
        """The configuration of one code [width]."""
        form = FORMS[int(4 * code[1] + 2 * code[3] + code[5])]
        choices = []
        for number, layer in enumerate(self.space.layers):
            widths = []
            for kind, allowed in enumerate((layer.weight_bits, layer.activation_bits)):
                slots = self._slots[number, kind]
                found = [b for b in allowed if slots[b] >= 0 and code[slots[b]] == 1.0]
                widths.append(allowed[0] if layer.pinned else found[0])
            choices.append(LayerChoice(widths[0], widths[1], form))
        return Configuration(tuple(choices))


def bits_of(configurations: list[Configuration]) -> Bits:
    """Widths of some configurations."""
    return np.array([[(c.weight_bits, c.activation_bits) for c in one.layers] for one in configurations], np.int64)


def forms_of(configurations: list[Configuration]) -> NDArray[np.int64]:
    """Index of the form of each; UsageError where the layers of one differ."""
    found = []
    for one in configurations:
        if one.form is None:
            raise UsageError("the predictor knows configurations of one form only")
        found.append(one.form.index)
    return np.array(found, np.int64)


def configuration_of(bits: NDArray[np.int64], form: Form) -> Configuration:
    """The configuration of one member's widths, [layers, 2]."""
    return Configuration(tuple(LayerChoice(int(w), int(a), form) for w, a in bits))
