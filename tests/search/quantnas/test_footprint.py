"""What a step is said to take: each tensor once, per sample what samples take, in the precision of the run."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from search.quantnas import QuantSettings, SearchSettings, Supernet
from search.quantnas import footprint as module
from search.quantnas.footprint import ADAM_COPIES, footprint
from workloads.super_resolution.models.searched import load_space

SPACE = load_space("basic").resized(width=6, cells=1)
SAMPLE = torch.rand(3, 12, 12), torch.rand(3, 48, 48)
SETTINGS = SearchSettings()


def _net(*, recompute: bool = False) -> Supernet:
    torch.manual_seed(0)
    return Supernet(SPACE, QuantSettings(), adq=True, recompute=recompute).train()


def _parameters(net: nn.Module) -> int:
    return ADAM_COPIES * sum(p.numel() * p.element_size() for p in net.parameters())


def test_a_batch_is_drawn_out_from_two_sizes() -> None:
    """What a step keeps whatever its batch, such as noisy weights, counts once."""
    net = _net()
    told = footprint(net, SAMPLE, SETTINGS, 16).bytes - _parameters(net)
    batch = [part[None].repeat(16, 1, 1, 1) for part in SAMPLE]
    kept = max(module._kept(net, batch, SETTINGS, weights=weights) for weights in (False, True))
    assert told == pytest.approx(kept, rel=0.01)
    one = footprint(net, SAMPLE, SETTINGS, 1).bytes - _parameters(net)
    assert 16 * one > 1.02 * kept


def test_half_precision_keeps_less() -> None:
    net = _net()
    whole, half = (footprint(net, SAMPLE, dataclasses.replace(SETTINGS, amp=amp), 8).bytes for amp in (False, True))
    assert half - _parameters(net) < 0.8 * (whole - _parameters(net))


def test_layers_computed_twice_keep_their_inputs_and_one_layer_at_a_time() -> None:
    net = _net(recompute=True)
    kept = footprint(net, SAMPLE, SETTINGS, 1).bytes - _parameters(net)
    inputs: list[int] = []
    largest: list[int] = []

    def measured(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        inputs.append(given[0].nbytes)
        largest.append(made.nbytes)

    for _, layer in net.mixtures():
        layer.register_forward_hook(measured)
    net(SAMPLE[0][None])
    whole = footprint(_net(), SAMPLE, SETTINGS, 1).bytes - _parameters(net)
    assert max(largest) + max(inputs) < kept < 0.7 * whole
    assert all(layer.recompute for _, layer in net.mixtures())


def test_processes_on_one_machine_share_its_memory() -> None:
    alone, beside = (footprint(_net(), SAMPLE, SETTINGS, 1, sharing=sharing).free for sharing in (1, 4))
    assert beside < 0.5 * alone
