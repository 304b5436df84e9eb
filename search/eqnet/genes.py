"""GeneMap: a population as small integers, one gene for each width that may be chosen; ties are one gene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import UsageError
from search.eqnet.encoder import Bits
from search.eqnet.forms import WIDEST
from search.eqnet.space import ElasticSpace

Genes = NDArray[np.int64]
"""[members, genes]: place in the gene's ascending widths."""

Allowed = Mapping[str, tuple[Sequence[int], Sequence[int]]]
"""By layer, the widths of weights and of the input that a device executes."""


class GeneMap:
    """The free choices of a space, less what `allowed` leaves out; a layer that `allowed` does not name keeps its all.

    Layers that share a weight or an input share its gene. UsageError where a layer is left without a width.
    """

    def __init__(self, space: ElasticSpace, allowed: Allowed | None = None) -> None:
        self.space = space
        widths: dict[tuple[int, int], tuple[int, ...]] = {}
        for number, layer in enumerate(space.layers):
            for kind, own in enumerate((layer.weight_bits, layer.activation_bits)):
                leader = ((space.weight_of, space.source_of)[kind][number], kind)
                given = own if allowed is None or layer.name not in allowed else allowed[layer.name][kind]
                known = widths.get(leader, own)
                widths[leader] = tuple(b for b in known if b in given)
                if not widths[leader]:
                    what = ("weights", "input")[kind]
                    raise UsageError(f"no width is left for the {what} of layer {layer.name}: it may have {list(own)}")
        self.keys = [key for key, values in widths.items() if len(values) > 1]
        self.widths = [widths[key] for key in self.keys]
        self.count = len(self.keys)
        self.sizes = np.array([len(values) for values in self.widths], np.int64)
        most = max([1, *map(len, self.widths)])
        self.values = np.zeros((self.count, most), np.int64)
        for gene, values in enumerate(self.widths):
            self.values[gene] = [*values, *[values[-1]] * (most - len(values))]
        place = {key: gene for gene, key in enumerate(self.keys)}
        self.gene_of = np.full((len(space.layers), 2), -1)
        self.fixed = np.zeros((len(space.layers), 2), np.int64)
        for number in range(len(space.layers)):
            for kind in range(2):
                leader = ((space.weight_of, space.source_of)[kind][number], kind)
                self.gene_of[number, kind] = place.get(leader, -1)
                self.fixed[number, kind] = widths[leader][0]
        self._where = np.nonzero(self.gene_of >= 0)
        self._which = self.gene_of[self._where]

    def bits(self, genes: Genes) -> Bits:
        """Widths of all layers, [members, layers, 2]."""
        result = np.repeat(self.fixed[None], len(genes), 0)
        if self.count:
            chosen = self.values[np.arange(self.count), genes]
            result[:, self._where[0], self._where[1]] = chosen[:, self._which]
        return result

    def genes(self, bits: Bits) -> Genes:
        """The inverse of `bits`, for members that have only widths of this map."""
        result = np.zeros((len(bits), self.count), np.int64)
        for gene, (layer, kind) in enumerate(self.keys):
            result[:, gene] = np.searchsorted(self.widths[gene], bits[:, layer, kind])
        return result

    def random(self, draw: np.random.Generator, count: int) -> Genes:
        """Members with every gene drawn uniformly."""
        return draw.integers(self.sizes, size=(count, self.count)) if self.count else np.zeros((count, 0), np.int64)

    def narrowest(self) -> Genes:
        """The member with every width at its least, [genes]."""
        return np.zeros(self.count, np.int64)

    def by_gene(self, weights: NDArray[np.float64], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values by layer and width, [members, layers, 9] for weights and inputs, as [members, genes, places].

        Values of layers that share a gene are added up.
        """
        result = np.zeros((len(weights), self.count, WIDEST + 1))
        for kind, source in enumerate((weights, inputs)):
            for layer in np.nonzero(self.gene_of[:, kind] >= 0)[0]:
                result[:, self.gene_of[layer, kind]] += source[:, layer]
        return result[:, np.arange(self.count)[:, None], self.values]
