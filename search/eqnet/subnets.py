"""Subnets: what a trained supernet is asked for, with norms calibrated or biases corrected: quality, and integers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from torch import Tensor, fx

from compress.bias_correction import correct_biases, output_means
from compress.compressed import CompressedModel
from compress.graph import layer_nodes, weight_name
from compress.second_order_rounding import Factors, factors, round_weights
from search.eqnet.export import Target, export
from search.eqnet.norms import Calibrator
from search.eqnet.space import Configuration
from search.eqnet.supernet import Supernet, evaluating
from search.layer_sensitivity import Evaluate
from workloads.workload import Predict

CORRECTED_ON = 100
"""Most images that biases are corrected on."""


class Subnets:
    """`inputs`: training images [N, C, H, W], prepared as in evaluation; `evaluate` must use none of them.

    The supernet is not trained meanwhile.
    """

    def __init__(self, supernet: Supernet, inputs: Tensor, evaluate: Evaluate, *, batch: int = 256) -> None:
        self.supernet, self.inputs, self.evaluate = supernet.cpu().eval(), inputs, evaluate
        self.calibrator = Calibrator(supernet, inputs, batch=batch)

    def quality(self, configuration: Configuration) -> float:
        """True quality of a subnet, in the metric's unit."""
        with self.network(configuration) as predict:
            return self.evaluate(predict)

    @contextmanager
    def network(self, configuration: Configuration) -> Iterator[Predict]:
        """What a subnet computes, inside the block.

        Without norms to calibrate, it is the exported network: weights rounded by the damage to each layer's output,
        biases corrected. Rounded to nearest, the filters of a narrow network lose so much of their gain, by chance,
        that neighbouring widths differ by 1 dB either way.
        """
        if not self.supernet.has_norms:
            yield self.export(configuration, Target("subnet")).simulate()
            return
        self.calibrator.choose(configuration)
        with evaluating(self.supernet):
            yield self.supernet

    def export(self, configuration: Configuration, target: Target) -> CompressedModel:
        """The subnet as integers, for a device."""
        some = self.inputs[:CORRECTED_ON]
        model = export(self.supernet, configuration, target, self.calibrator.choose(configuration), some)
        if not self.supernet.has_norms:
            round_weights(model, self._float_graph, self._factors)
            correct_biases(model, some, expected=self._float_means)
        return model

    @cached_property
    def _float_graph(self) -> fx.GraphModule:
        return self.supernet.float_graph()

    @cached_property
    def _factors(self) -> Factors:
        """What weights are rounded by."""
        names = {weight_name(node) for _, node in layer_nodes(self._float_graph)}
        return factors(self._float_graph, self.inputs[:CORRECTED_ON], names)

    @cached_property
    def _float_means(self) -> dict[str, Tensor]:
        """What biases are corrected to: the mean output of each layer of the float network."""
        wanted = {node.name for _, node in layer_nodes(self._float_graph)}
        return output_means(self._float_graph, self.inputs[:CORRECTED_ON], wanted)
