"""QuantNAS: the operation and the bit width of each layer, searched together by gradient against quantisation noise.

Source: Shvetsov et al., "QuantNAS for super resolution", arXiv 2208.14839. Where the authors' code and the recommended
form differ, the recommended one is the default and the other an option, named as such.

- `Supernet`, `QuantSettings`, `Mode`: every candidate in place (`supernet`, `mixed_layer`, `quant_conv`,
  `operand_noise`, `quantisers`, `quant_settings`, `projection`)
- `CostTable`, `bitops_costs`, `latency_costs`: what a choice costs (`cost_table`, `latency_costs`)
- `entropy_coefficient`, `sparsity_loss`: what makes a mixture end in a choice (`entropy`)
- `derive`, `derive_within`: from logits to a `Genotype` (`derive`, `assignment`)
- `Search`, `SearchSettings`: the bilevel training (`search`, `settings`, `presets`, `data_split`, `footprint`)
- `QuantisedNetwork`, `retrain`, `deployable`: the network found, from random weights to what is compressed
  (`found_network`, `retrain`)

The spaces, candidate operations and the network that is found are in `workloads.super_resolution.models.searched`.
"""

from search.quantnas.cost_table import CostTable, bitops_costs, network_bitops
from search.quantnas.derive import Derivation, derive, derive_within
from search.quantnas.entropy import EntropyReduction, Sparsity, entropy_coefficient, sparsity_loss
from search.quantnas.found_network import QuantisedNetwork, deployable
from search.quantnas.latency_costs import LatencyCosts, Where, latency_costs
from search.quantnas.quant_settings import ActQuant, Mode, NoiseForm, NoiseKind, NoiseRange, NoiseSource, QuantSettings
from search.quantnas.retrain import Retrained, retrain
from search.quantnas.search import Found, Search
from search.quantnas.settings import RetrainSettings, SearchSettings
from search.quantnas.supernet import Supernet

__all__ = [
    "ActQuant",
    "CostTable",
    "Derivation",
    "EntropyReduction",
    "Found",
    "LatencyCosts",
    "Mode",
    "NoiseForm",
    "NoiseKind",
    "NoiseRange",
    "NoiseSource",
    "QuantSettings",
    "QuantisedNetwork",
    "RetrainSettings",
    "Retrained",
    "Search",
    "SearchSettings",
    "Sparsity",
    "Supernet",
    "Where",
    "bitops_costs",
    "deployable",
    "derive",
    "derive_within",
    "entropy_coefficient",
    "latency_costs",
    "network_bitops",
    "retrain",
    "sparsity_loss",
]
