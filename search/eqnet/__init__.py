"""EQ-Net: one set of weights for every width and form of quantisation that a device may ask for.

Source: Xu et al., "EQ-Net: Elastic Quantization Neural Networks", ICCV 2023, arXiv 2308.07650. Where paper, release and
recommended form differ, the recommended one is the default and the text says so.

- `Form`, `ElasticSpace`, `Configuration`: what may be chosen (`forms`, `space`, `sampling`)
- `Supernet`: a captured network with elastic quantisers (`supernet`, `elastic`, `clip_search`)
- `Trainer`, `EqnetSettings`: sandwich rule, guidance, weight distribution (`trainer`, `settings`, `step`, `guidance`,
  `distribution`)
- `export`, `Subnets`: from a subnet to integers, its norms calibrated or its biases corrected (`export`, `norms`,
  `subnets`)
- `Measure`, `Metric`: the quality that is searched for, and the task's metric that it stands for (`quality`)
- `Predictor`: quality from widths and form (`predictor`, `cqap`, `noise_regression`, `gaussian_process`, `regression`,
  `predictor_choice`, `encoder`, `samples`)
- `evolve`, `front`, `verify`: the search and its costs (`genetic`, `genes`, `repair`, `pareto`, `verification`,
  `accounting`)
- `device_choice`, `search_device`: what a device executes, and the plan for it (`devices`, `device_search`)
"""

from search.eqnet.accounting import Accounting, LayerCosts
from search.eqnet.cqap import Cqap, CqapSettings
from search.eqnet.device_search import DeviceFound, DeviceSearchSettings, search_device
from search.eqnet.devices import DeviceChoice, device_choice, device_cost
from search.eqnet.encoder import Encoder
from search.eqnet.export import Target, export
from search.eqnet.forms import FORMS, Form, OffsetMode
from search.eqnet.gaussian_process import GaussianProcess
from search.eqnet.genes import GeneMap
from search.eqnet.genetic import GeneticSettings, evolve, random_search
from search.eqnet.noise_regression import NoiseRegression
from search.eqnet.norms import Calibrator
from search.eqnet.pareto import front
from search.eqnet.predictor import Agreement, Predictor
from search.eqnet.quality import Measure, Metric
from search.eqnet.repair import Limit
from search.eqnet.settings import EqnetSettings
from search.eqnet.space import Configuration, ElasticSpace, LayerChoice
from search.eqnet.subnets import Subnets
from search.eqnet.supernet import Supernet, trainable_graph
from search.eqnet.trainer import Trainer
from search.eqnet.verification import Verified, verify

__all__ = [
    "FORMS",
    "Accounting",
    "Agreement",
    "Calibrator",
    "Configuration",
    "Cqap",
    "CqapSettings",
    "DeviceChoice",
    "DeviceFound",
    "DeviceSearchSettings",
    "ElasticSpace",
    "Encoder",
    "EqnetSettings",
    "Form",
    "GaussianProcess",
    "GeneMap",
    "GeneticSettings",
    "LayerChoice",
    "LayerCosts",
    "Limit",
    "Measure",
    "Metric",
    "NoiseRegression",
    "OffsetMode",
    "Predictor",
    "Subnets",
    "Supernet",
    "Target",
    "Trainer",
    "Verified",
    "device_choice",
    "device_cost",
    "evolve",
    "export",
    "front",
    "random_search",
    "search_device",
    "trainable_graph",
    "verify",
]
