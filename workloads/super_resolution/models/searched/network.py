"""SearchedNetwork: the float network of a genotype, as it is compressed and deployed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright.foundation.files import atomic_path
from workloads.architecture import Network, StateDict
from workloads.strict import load_strict
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.searched.genotype import Genotype
from workloads.super_resolution.models.searched.operations import ConvSpec, Operation
from workloads.super_resolution.models.searched.topology import Topology
from workloads.super_resolution.models.searched.wiring import Site

GENOTYPE = "bitwright_genotype"
"""Key of the genotype in the metadata of a safetensors file."""


class ConvUnit(nn.Module):
    """ReLU, clipped at `limit` where that is not 0, then a convolution without bias.

    The limit is the end of the range that a quantiser learned; with it the float network saturates where the quantised
    one does, and calibration finds the learned range again.
    """

    limit: Tensor

    def __init__(self, spec: ConvSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(spec.weight_shape))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.register_buffer("limit", torch.zeros(()))
        self._clip = 0.0

    def clip_at(self, limit: float) -> None:
        """Set the limit; a graph needs it as a constant, a file as a tensor."""
        self.limit.fill_(limit)
        self._clip = float(self.limit)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._clip = float(self.limit)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, ...]."""
        active = torch.clamp(x, 0.0, self._clip) if self._clip > 0 else F.relu(x)
        spec = self.spec
        return F.conv2d(active, self.weight, None, spec.stride, spec.pads, spec.dilation, spec.groups)


class Chain(nn.Module):
    """An operation of plain units."""

    def __init__(self, chosen: Operation, outputs: int) -> None:
        super().__init__()
        self.chosen, self.outputs = chosen, outputs
        self.units = nn.ModuleList(ConvUnit(spec) for spec in chosen.convs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H, W]."""
        if self.chosen.is_zero:
            return torch.zeros_like(x[:, :1]).expand(-1, self.outputs, -1, -1)
        if self.chosen.tile_before > 1:
            x = x.repeat(1, self.chosen.tile_before, 1, 1)
        for unit in self.units:
            x = unit(x)
        return x.repeat(1, self.chosen.tile_after, 1, 1) if self.chosen.tile_after > 1 else x


class SearchedNetwork(Network):
    """RGB in 0..1, [N, 3, H, W] to [N, 3, scale * H, scale * W]."""

    def __init__(self, genotype: Genotype) -> None:
        super().__init__()
        self.genotype = genotype
        space = genotype.search_space()

        def layer(site: Site) -> nn.Module:
            return Chain(genotype.operation_at(site), site.outputs)

        self.body = Topology(space, layer=layer, unit=ConvUnit, adq=genotype.adq)

    @property
    def io(self) -> SRFormat:
        """No halo where attention or ADQ look at the whole input."""
        return SRFormat(
            self.genotype.scale, Color.RGB, 1.0, min_input_side=self.body.min_input_side, halo=self._halo()
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch."""
        enlarged: Tensor = self.body(x)
        return enlarged

    def _halo(self) -> int | None:
        """Sum of what all layers reach, in input pixels: no path through the network reaches farther."""
        wiring = self.body.space.wiring
        if self.genotype.adq or any(part.kind == "esa" for part in wiring.fixed):
            return None
        reach = sum(self.genotype.operation_at(site).reach / site.factor for site in wiring.sites)
        return math.ceil(reach + sum((part.kernel - 1) // 2 / part.factor for part in wiring.fixed))


def save_network(path: Path, network: SearchedNetwork) -> None:
    """Write the weights with the genotype that rebuilds the network around them."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={GENOTYPE: network.genotype.to_json()})


def network_of_metadata(metadata: Mapping[str, str], state: StateDict, path: Path) -> SearchedNetwork | None:
    """The loaded network of a file that carries a genotype; None for a file without one."""
    if GENOTYPE not in metadata:
        return None
    network = SearchedNetwork(Genotype.from_json(metadata[GENOTYPE], str(path)))
    load_strict(network, state, path, f"the network of its genotype (space {network.body.space.name})")
    return network.eval()
