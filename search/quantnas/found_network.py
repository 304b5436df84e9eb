"""The network of a genotype while it is trained: its convolutions at the chosen bit widths, with learned steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.quantnas.quant_conv import QuantConv
from search.quantnas.quant_settings import ActQuant, Mode, QuantSettings
from search.quantnas.quantisers import FLOAT_BITS, BitQuantisers, measuring
from workloads.super_resolution.models.searched import (
    ConvSpec,
    Genotype,
    Operation,
    SearchedNetwork,
    Site,
    Topology,
)
from workloads.super_resolution.models.searched.network import ConvUnit


class QuantChain(nn.Module):
    """An operation at one bit width."""

    def __init__(self, chosen: Operation, outputs: int, bits: int, settings: QuantSettings) -> None:
        super().__init__()
        self.chosen, self.outputs = chosen, outputs
        self.units = nn.ModuleList(QuantConv(spec, (bits,), settings) for spec in chosen.convs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H, W]."""
        if self.chosen.is_zero:
            return torch.zeros_like(x[:, :1]).expand(-1, self.outputs, -1, -1)
        if self.chosen.tile_before > 1:
            x = x.repeat(1, self.chosen.tile_before, 1, 1)
        for unit in self.units:
            x = unit(x)
        return x.repeat(1, self.chosen.tile_after, 1, 1) if self.chosen.tile_after > 1 else x


class QuantisedNetwork(nn.Module):
    """RGB in 0..1, [N, 3, H, W] to [N, 3, scale * H, scale * W], trained from random weights."""

    def __init__(self, genotype: Genotype, act_quant: ActQuant = ActQuant.LSQ) -> None:
        super().__init__()
        self.genotype = genotype
        space = genotype.search_space()
        settings = QuantSettings(mode=Mode.DIRECT, act_quant=act_quant)

        def layer(site: Site) -> nn.Module:
            bits = genotype.layers[site.name].bits
            return QuantChain(genotype.operation_at(site), site.outputs, bits, settings)

        def unit(spec: ConvSpec) -> nn.Module:
            return QuantConv(spec, (space.fixed_bits,), settings)

        self.body = Topology(space, layer=layer, unit=unit, adq=genotype.adq)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        enlarged: Tensor = self.body(x)
        return enlarged

    def set_rounding(self, rounding: bool) -> None:
        """Let all quantisers round, or be a ReLU and the weight as it is. They stay the modules that they are, so that
        an optimiser that was made before keeps training their steps.
        """
        for part in self.modules():
            if isinstance(part, BitQuantisers):
                part.rounding = rounding

    def measure_steps(self, x: Tensor) -> None:
        """Set the steps of all quantisers, those of activations from a batch, layer after layer."""
        with measuring(self):
            self(x)


@torch.no_grad()
def deployable(network: QuantisedNetwork) -> SearchedNetwork:
    """The float network with the rounded weights and the learned ends of all ranges: what compression starts from.

    It differs from `network` by the rounding of activations alone.
    """
    made = SearchedNetwork(network.genotype)
    sources = {n: m for n, m in network.named_modules() if isinstance(m, QuantConv)}
    for name, unit in made.named_modules():
        if not isinstance(unit, ConvUnit):
            continue
        source = sources[name]
        quantisers = source.quantisers[0]
        assert isinstance(quantisers, BitQuantisers)
        unit.weight.copy_(quantisers.weight(source.weight))
        if quantisers.bits != FLOAT_BITS:
            unit.clip_at(quantisers.limit())
    if network.genotype.adq:
        made.body.adq.load_state_dict(network.body.adq.state_dict())
    return made.eval()
