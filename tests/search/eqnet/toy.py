"""The space of ResNet-18 with a quality that is known, for predictor and search; and those of section 9."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.layer_table import LayerTable
from search.eqnet.accounting import Accounting
from search.eqnet.encoder import Bits, bits_of, forms_of
from search.eqnet.forms import FORMS
from search.eqnet.samples import Measured, collect
from search.eqnet.space import ALL_BITS, LIGHT_BITS, Configuration, ElasticLayer, ElasticSpace
from tests.search.eqnet.imagenet_shapes import efficientnet_b0, mobilenet_v2, resnet

NETWORKS = {
    "resnet18": (lambda: resnet((2, 2, 2, 2), False), 21, ALL_BITS),
    "resnet50": (lambda: resnet((3, 4, 6, 3), True), 54, ALL_BITS),
    "mobilenetv2": (mobilenet_v2, 53, LIGHT_BITS),
    "efficientnet": (efficientnet_b0, 82, LIGHT_BITS),
}


def space_of(table: LayerTable, bits: tuple[int, ...]) -> ElasticSpace:
    """The space of a table, ends pinned."""
    last = len(table.rows) - 1
    layers = []
    for number, row in enumerate(table.rows):
        own = (8,) if number in (0, last) else bits
        layers.append(
            ElasticLayer(name=row.name, weight=row.weight, source=f"in{number}", weight_bits=own, activation_bits=own,
                         pinned=len(own) == 1)
        )  # fmt: skip
    return ElasticSpace(layers=tuple(layers))


def network(name: str) -> tuple[ElasticSpace, Accounting]:
    """Space and accounting of one of NETWORKS."""
    made, layers, bits = NETWORKS[name]
    table = made()
    assert len(table.rows) == layers
    space = space_of(table, bits)
    return space, Accounting.of(table, space)


SPACE, ACCOUNTING = network("resnet18")
FORM = FORMS[6]


def truth(bits: Bits, form: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """A quality that is a sum over layers, saturated, with a loss of its own for some forms."""
    hurt = np.linspace(3.0, 0.2, len(SPACE.layers))
    loss = (hurt * (2.0 ** -(bits[:, :, 0] - 2.0) + 0.6 * 2.0 ** -(bits[:, :, 1] - 2.0)))[:, list(SPACE.free)].sum(1)
    shift = 0.0 if form is None else 0.5 * (form & 1)
    quality: NDArray[np.float64] = 92 - 0.6 * loss - shift
    return quality


def evaluate_toy(configuration: Configuration) -> float:
    """The quality of one configuration."""
    return float(truth(bits_of([configuration]), forms_of([configuration]))[0])


def toy_samples(count: int, seed: int) -> list[Measured]:
    """Samples with their quality."""
    return collect(SPACE, ACCOUNTING, evaluate_toy, count, seed=seed, owner="toy")
