"""Batch norm statistics of a subnet: taken anew from training images before it is evaluated (section 4)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from compress.training.samples import Pairs
from search.eqnet.space import Configuration
from search.eqnet.supernet import Supernet, evaluating

Statistics = dict[str, tuple[Tensor, Tensor]]


def recalibrate(supernet: Supernet, inputs: Tensor, batch: int) -> None:
    """Set the running statistics of the subnet chosen last, from `inputs` in their order.

    They are reset first and then averaged over the batches, so that nothing of an earlier subnet is left; batches are
    of equal size. Only the norms are in training mode: dropout and the like stay off.
    """
    parts = [part for part in torch.split(inputs, batch) if len(part) == min(batch, len(inputs))]
    momenta = {name: norm.momentum for name, norm in supernet.norms.items()}
    with evaluating(supernet), torch.no_grad():
        for norm in supernet.norms.values():
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            for part in parts:
                supernet(part)
        finally:
            for name, norm in supernet.norms.items():
                norm.momentum = momenta[name]


def training_inputs(data: Pairs, count: int) -> Tensor:
    """The first `count` inputs of a training set as its steps see them, [count, C, H, W].

    Norms have the statistics of augmented images: taken from images as they are, they cost a ResNet on CIFAR-10 several
    percent of its accuracy, even in float (`tests/bitwright/test_search_eqnet.py` would fail).
    """
    return torch.stack([data[number][0] for number in range(count)])


class Calibrator:
    """Statistics by configuration, of a supernet that is not trained meanwhile; the last `capacity` are kept."""

    def __init__(self, supernet: Supernet, inputs: Tensor, *, batch: int = 256, capacity: int = 256) -> None:
        if not len(inputs):
            raise UsageError("batch norms need at least one image to be calibrated on")
        self.supernet, self.inputs, self.batch, self.capacity = supernet, inputs, batch, capacity
        self.taken = 0
        self._known: OrderedDict[str, Statistics] = OrderedDict()

    def choose(self, configuration: Configuration) -> Statistics:
        """Make the supernet this subnet, with its statistics; they are returned."""
        supernet = self.supernet
        supernet.choose(configuration)
        if not supernet.has_norms:
            return {}
        key = configuration.key
        if key not in self._known:
            recalibrate(supernet, self.inputs, self.batch)
            self.taken += 1
            self._known[key] = supernet.statistics()
            if len(self._known) > self.capacity:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        for name, (mean, variance) in self._known[key].items():
            norm = supernet.norms[name]
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
        return self._known[key]
