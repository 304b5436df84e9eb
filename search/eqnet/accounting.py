"""Accounting of section 9 for whole populations: average widths, compression, BitOps, size, predicted latency."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import UsageError
from compress.layer_table import LayerTable
from hw_profiles import bitops
from search.eqnet.encoder import Bits
from search.eqnet.forms import WIDEST
from search.eqnet.space import ElasticSpace
from search.sensitivity.cost import PlanCost

FLOAT_BITS = 32
MILLISECONDS = "ms"
"""Unit of a cost that is a predicted latency."""
Costs = NDArray[np.float64]


@dataclass(frozen=True)
class LayerCosts:
    """constant + sum of table[layer, weight bits, input bits] + crossings; of a population it gives [members].

    `crossings`: producer, consumer and a table by weight bits * 9 + input bits of both. NaN: not known, or not legal.
    """

    name: str
    unit: str
    table: Costs
    constant: float = 0.0
    crossings: tuple[tuple[int, int, Costs], ...] = ()
    source: str = "counted"

    def __call__(self, bits: Bits) -> Costs:
        """Cost of each member of [members, layers, 2]."""
        layers = np.arange(self.table.shape[0])
        total: Costs = self.table[layers, bits[:, :, 0], bits[:, :, 1]].sum(1) + self.constant
        if self.crossings:
            code = bits[:, :, 0] * (WIDEST + 1) + bits[:, :, 1]
            for producer, consumer, ms in self.crossings:
                total = total + ms[code[:, producer], code[:, consumer]]
        return total

    def scaled(self, factor: float, source: str) -> LayerCosts:
        """All of it times `factor`; `source` is added to where it comes from."""
        crossings = tuple((producer, consumer, ms * factor) for producer, consumer, ms in self.crossings)
        told = self.source if self.source.endswith(source) else f"{self.source}, {source}"
        return LayerCosts(self.name, self.unit, self.table * factor, self.constant * factor, crossings, told)

    def savings(self, bits: Bits) -> tuple[Costs, Costs]:
        """What each layer alone saves at every other width of its weights, and of its input: [members, layers, 9] each.

        Crossings are not in it.
        """
        layers = np.arange(self.table.shape[0])
        now = self.table[layers, bits[:, :, 0], bits[:, :, 1]][:, :, None]
        by_weight = self.table.transpose(0, 2, 1)[layers, bits[:, :, 1]]
        by_input = self.table[layers, bits[:, :, 0]]
        return now - by_weight, now - by_input


@dataclass(frozen=True)
class Accounting:
    """Per layer of a space: weights (once where calls share them), input elements of one image, MACs; float64 [L]."""

    weights: Costs
    inputs: Costs
    macs: Costs
    free: NDArray[np.bool_]

    @staticmethod
    def of(table: LayerTable, space: ElasticSpace) -> Accounting:
        """Of a network at the size of `table`; UsageError where it is not that of the space."""
        if tuple(row.name for row in table.rows) != space.names:
            raise UsageError("the layer table and the space are of different networks")
        owned = [space.weight_of[n] == n for n in range(len(space.layers))]
        weights = [row.weight_elements * own for row, own in zip(table.rows, owned, strict=True)]
        free = np.zeros(len(space.layers), bool)
        free[list(space.free)] = True
        values = (weights, [row.input_elements for row in table.rows], [row.macs for row in table.rows])
        counted = [np.array(v, np.float64) for v in values]
        return Accounting(counted[0], counted[1], counted[2], free)

    def average_weight_bits(self) -> LayerCosts:
        """Mean width of a weight over the free layers."""
        return self._average("average weight bits", self.weights, 0)

    def average_activation_bits(self) -> LayerCosts:
        """Mean width of an input element over the free layers."""
        return self._average("average activation bits", self.inputs, 1)

    def weight_compression(self, bits: Bits) -> Costs:
        """Float size of all weights over their size, the pinned layers included."""
        ratio: Costs = FLOAT_BITS * self.weights.sum() / (bits[:, :, 0] @ self.weights)
        return ratio

    def activation_compression(self, bits: Bits) -> Costs:
        """The same of the layers' inputs."""
        ratio: Costs = FLOAT_BITS * self.inputs.sum() / (bits[:, :, 1] @ self.inputs)
        return ratio

    def bitops(self) -> LayerCosts:
        """BitOps of the whole network."""
        unit = np.array([bitops(int(m), 1, 1) for m in self.macs])
        widths = np.arange(WIDEST + 1.0)
        return LayerCosts("BitOps", "BitOps", unit[:, None, None] * widths[:, None] * widths)

    def size(self, in_float: Collection[int] = ()) -> LayerCosts:
        """Bytes of all weights at their widths, without scales and biases; layers of these numbers are in float32.

        A file that keeps narrow weights in bytes of their own is larger.
        """
        widths = np.repeat(np.arange(WIDEST + 1.0)[None], len(self.weights), 0)
        widths[list(in_float)] = FLOAT_BITS
        each = self.weights[:, None] * widths / 8
        return LayerCosts("weight bytes", "bytes", np.repeat(each[:, :, None], WIDEST + 1, 2))

    def _average(self, name: str, amounts: Costs, kind: int) -> LayerCosts:
        shares = np.where(self.free, amounts, 0.0)
        shares = shares / max(shares.sum(), 1.0)
        widths = np.arange(WIDEST + 1.0)
        by_width = widths[:, None] if kind == 0 else widths[None, :]
        return LayerCosts(name, "bits", shares[:, None, None] * np.broadcast_to(by_width, (WIDEST + 1, WIDEST + 1)))


def latency(cost: PlanCost, space: ElasticSpace, source: str) -> LayerCosts:
    """Predicted ms of a plan; widths of which `cost` knows nothing are NaN, and no member may have them."""
    size = WIDEST + 1
    table = np.full((len(space.layers), size, size), np.nan)
    names = {(w, a): precision_name(w, a) for w in range(1, size) for a in range(1, size)}
    for number, layer in enumerate(space.layers):
        known = cost.layer_ms.get(layer.name)
        if known is None:
            raise UsageError(f"no cost is known for layer {layer.name}")
        for (w, a), name in names.items():
            if name in known:
                table[number, w, a] = known[name]
    at = {name: number for number, name in enumerate(space.names)}
    crossings = []
    for edge in cost.boundaries:
        ms = np.zeros((size * size, size * size))
        for (w, a), first in names.items():
            for (v, b), second in names.items():
                ms[w * size + a, v * size + b] = edge.ms.get(first, {}).get(second, 0.0)
        if ms.any():
            crossings.append((at[edge.producer], at[edge.consumer], ms))
    return LayerCosts("latency", MILLISECONDS, table, cost.constant_ms, tuple(crossings), source)


def precision_name(weight_bits: int, activation_bits: int) -> str:
    """The name that costs know a pair of widths by."""
    return f"int{weight_bits}" if weight_bits == activation_bits else f"w{weight_bits}a{activation_bits}"
