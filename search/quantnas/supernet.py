"""Supernet: a space with every candidate in place, mixed by the probabilities of its architecture parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from search.quantnas.mixed_layer import MixedLayer
from search.quantnas.operand_noise import NoiseTable
from search.quantnas.projection import Projection, probabilities, project, scaled
from search.quantnas.quant_conv import QuantConv
from search.quantnas.quant_settings import Mode, QuantSettings
from search.quantnas.quantisers import measuring
from workloads.super_resolution.models.searched import ConvSpec, SearchSpace, Site, Topology
from workloads.super_resolution.models.searched.adq import ADQ
from workloads.super_resolution.models.searched.topology import module_key


class Supernet(nn.Module):
    """RGB in 0..1, [N, 3, H, W] to [N, 3, scale * H, scale * W].

    `logits`: one vector for each searched layer, all bits of the first operation, then all of the second; cells share
    one where the space says so. They start at 0: a uniform mixture.
    """

    def __init__(self, space: SearchSpace, settings: QuantSettings, *, adq: bool = False, recompute: bool = False,
                 seed: int = 0) -> None:  # fmt: skip
        super().__init__()
        self.space, self.settings = space, settings
        self.projection, self.temperature = Projection.SOFTMAX, 1.0
        self.table = NoiseTable(seed)
        self._draws: torch.Generator | None = None
        fixed_mode = Mode.FLOAT if settings.mode is Mode.FLOAT else Mode.DIRECT
        fixed = QuantSettings(mode=fixed_mode, act_quant=settings.act_quant)

        def layer(site: Site) -> nn.Module:
            return MixedLayer(site, settings, self.table, recompute=recompute)

        def unit(spec: ConvSpec) -> nn.Module:
            return QuantConv(spec, (space.fixed_bits,), fixed)

        self.body = Topology(space, layer=layer, unit=unit, adq=adq)
        self.logits = nn.ParameterDict(
            {
                module_key(self.name_of(s)): nn.Parameter(torch.zeros(len(s.operations) * len(s.bits)))
                for s in self.sites
            }
        )

    @property
    def sites(self) -> tuple[Site, ...]:
        """The searched layers in order."""
        return self.space.wiring.sites

    def name_of(self, site: Site) -> str:
        """The name of the logits of a layer."""
        return site.shared if self.space.share_cell_alphas else site.name

    def logits_of(self, site: Site) -> Tensor:
        """The logits of a layer, [operations * bits]."""
        found: Tensor = self.logits[module_key(self.name_of(site))]
        return found

    def scaled_logits(self) -> dict[str, Tensor]:
        """The logits of each layer whose softmax is its mixture at the present temperature, [operations * bits]."""
        return {s.name: scaled(self.logits_of(s), self.projection, self.temperature) for s in self.sites}

    def alphas(self) -> dict[str, Tensor]:
        """The mixture of each layer at the present temperature, [operations, bits]."""
        made: dict[str, Tensor] = {}
        for site in self.sites:
            name = self.name_of(site)
            if name not in made:
                flat = probabilities(self.logits_of(site), self.projection, self.temperature)
                made[name] = flat.view(len(site.operations), -1)
        return {site.name: made[self.name_of(site)] for site in self.sites}

    def seed_choices(self, seed: int) -> None:
        """Draw choices by a seed of their own from now on, alike in all processes, whatever noise each of them draws:
        a choice that is not run gives its weights no gradient, and gradients are averaged together.
        """
        device = next(self.logits.parameters()).device
        if self._draws is None or self._draws.device != device:
            self._draws = torch.Generator(device)
        self._draws.manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch with the present mixture."""
        made: dict[str, Tensor] = {}
        for site in self.sites:
            name = self.name_of(site)
            if name not in made:
                flat = project(self.logits_of(site), self.projection, self.temperature, self.training, self._draws)
                made[name] = flat.view(len(site.operations), -1)
        return self.weighted(x, {site.name: made[self.name_of(site)] for site in self.sites})

    def weighted(self, x: Tensor, alphas: dict[str, Tensor]) -> Tensor:
        """Enlarge a batch with probabilities of the caller's, [operations, bits] by layer."""
        for site, layer in self.mixtures():
            layer.weigh(alphas[site.name])
        enlarged: Tensor = self.body(x)
        return enlarged

    def mixtures(self) -> Iterator[tuple[Site, MixedLayer]]:
        """The searched layers with their mixtures."""
        for site in self.sites:
            layer = self.body.layer(site.name)
            assert isinstance(layer, MixedLayer)
            yield site, layer

    def architecture_parameters(self) -> list[nn.Parameter]:
        """What the outer problem learns."""
        return list(self.logits.parameters())

    def weight_parameters(self) -> list[nn.Parameter]:
        """What the inner problem learns: weights, steps, normalisation."""
        return list(self.body.parameters())

    def learn(self, *, weights: bool) -> None:
        """Let the next backward pass reach either the weights or the logits; with the weights fixed, the running
        statistics of normalisation are fixed too.
        """
        for parameter in self.weight_parameters():
            parameter.requires_grad_(weights)
        for parameter in self.architecture_parameters():
            parameter.requires_grad_(not weights)
        for part in self.modules():
            if isinstance(part, ADQ):
                part.learning_statistics = weights

    def measure_steps(self, x: Tensor) -> None:
        """Set the steps of all quantisers, those of activations from a batch, layer after layer, in the mixture of all
        choices.
        """
        with measuring(self):
            self.weighted(x, self.alphas())
