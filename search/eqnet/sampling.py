"""Draws of configurations for training: the sandwich of section 5.1, a pure function of seed, step and place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.eqnet.forms import FORMS, Form
from search.eqnet.space import Configuration, ElasticSpace, LayerChoice

GLOBAL_SHARE = 0.5
"""Share of the draws in which all layers have one form, as they have when a subnet is read out."""


@dataclass(frozen=True)
class Drawn:
    """A configuration, and whether one form was drawn for all layers."""

    configuration: Configuration
    one_form: bool


def sandwich(
    space: ElasticSpace, seed: int, step: int, randoms: int = 1, global_share: float = GLOBAL_SHARE
) -> tuple[Drawn, ...]:
    """H (all layers widest), `randoms` times R (independent widths), L (all narrowest), in this order.

    The same in every process, because nothing but the arguments decides.
    """
    draw = np.random.default_rng([seed, step])
    return tuple(_draw(space, draw, kind, global_share) for kind in ("H", *["R"] * randoms, "L"))


def _draw(space: ElasticSpace, draw: np.random.Generator, kind: str, global_share: float) -> Drawn:
    one_form = bool(draw.random() < global_share)
    whole = FORMS[int(draw.integers(len(FORMS)))]
    choices: list[LayerChoice] = []
    for number, layer in enumerate(space.layers):
        picked = [FORMS[int(draw.integers(len(FORMS)))], whole][one_form]
        weight, source = space.weight_of[number], space.source_of[number]
        widths = []
        for allowed in (layer.weight_bits, layer.activation_bits):
            place = int(draw.integers(len(allowed)))
            widths.append(allowed[{"H": -1, "L": 0}.get(kind, place)])
        # What is shared was drawn with the first layer that has it.
        of_weight = picked if weight == number else choices[weight].form
        of_input = picked if source == number else choices[source].form
        form = Form(of_weight.granularity, of_weight.weight_symmetric, of_input.activation_symmetric)
        choices.append(
            LayerChoice(
                widths[0] if weight == number else choices[weight].weight_bits,
                widths[1] if source == number else choices[source].activation_bits,
                form,
            )
        )
    return Drawn(Configuration(tuple(choices)), one_form)
