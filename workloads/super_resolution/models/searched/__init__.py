"""Networks that a search composed: their spaces as data, their genotypes, and the float networks built from them.

- `SearchSpace`, `load_space`, `space_names`: what may be chosen, and how the parts are wired (`space`, `wiring`)
- `operation`, `ConvSpec`: the candidate operations by their tokens (`operations`)
- `Topology`: the wiring as a module, whatever its layers are made of (`topology`, `adq`, `attention`)
- `Genotype`: one choice for each layer, as JSON (`genotype`)
- `SearchedNetwork`: the float network of a genotype, recognised in checkpoints (`network`)
"""

from workloads.super_resolution.models.searched.genotype import Choice, Genotype
from workloads.super_resolution.models.searched.network import SearchedNetwork, save_network
from workloads.super_resolution.models.searched.operations import ConvSpec, Operation, operation
from workloads.super_resolution.models.searched.space import SearchSpace, load_space, space_names
from workloads.super_resolution.models.searched.topology import Topology
from workloads.super_resolution.models.searched.wiring import FixedSite, Site, Wiring

__all__ = [
    "Choice",
    "ConvSpec",
    "FixedSite",
    "Genotype",
    "Operation",
    "SearchSpace",
    "SearchedNetwork",
    "Site",
    "Topology",
    "Wiring",
    "load_space",
    "operation",
    "save_network",
    "space_names",
]
