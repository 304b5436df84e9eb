"""EQ-Net: one set of weights for every width and form of quantisation that a device may ask for.

Source: Xu et al., "EQ-Net: Elastic Quantization Neural Networks", ICCV 2023, arXiv 2308.07650. Where paper, release and
recommended form differ, the recommended one is the default and the text says so.

- `Form`, `ElasticSpace`, `Configuration`: what may be chosen (`forms`, `space`, `sampling`)
- `Supernet`: a captured network with elastic quantisers (`supernet`, `elastic`, `clip_search`)
- `Trainer`, `EqnetSettings`: sandwich rule, guidance, weight distribution (`trainer`, `settings`, `step`, `guidance`,
  `distribution`)
- `export`, `Calibrator`: from a subnet to integers (`export`, `norms`)
"""

from search.eqnet.export import Target, export
from search.eqnet.forms import FORMS, Form, OffsetMode
from search.eqnet.norms import Calibrator
from search.eqnet.settings import EqnetSettings
from search.eqnet.space import Configuration, ElasticSpace, LayerChoice
from search.eqnet.supernet import Supernet, trainable_graph
from search.eqnet.trainer import Trainer

__all__ = [
    "FORMS",
    "Calibrator",
    "Configuration",
    "ElasticSpace",
    "EqnetSettings",
    "Form",
    "LayerChoice",
    "OffsetMode",
    "Supernet",
    "Target",
    "Trainer",
    "export",
    "trainable_graph",
]
