"""CQAP: the small network of the paper that predicts the quality of a subnet (section 7)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright.foundation.files import atomic_path
from search.eqnet.encoder import ENCODER, Bits, Encoder, bits_of, forms_of
from search.eqnet.forms import Form
from search.eqnet.predictor import METADATA, Agreement, Predictor, agreement
from search.eqnet.samples import Measured, split
from search.eqnet.space import ElasticSpace

LAYERS, WIDTH = 7, 200


@dataclass(frozen=True)
class CqapSettings:
    """The release's recipe: Adam, smooth L1, best epoch by validation RMSE. (The paper's SGD learns nothing at it.)

    With few samples, batches shrink so that an epoch has at least `batches_at_least`.
    """

    epochs: int = 100
    rate: float = 4e-4
    weight_decay: float = 1e-5
    batch: int = 256
    batches_at_least: int = 12
    seed: int = 0


USUAL = CqapSettings()


class Cqap(nn.Module, Predictor):
    """Codes [N, width] to quality [N]. Targets are standardised: `mean` is the output's bias, `spread` its unit."""

    KIND: ClassVar[str] = "CQAP"
    mean: Tensor
    spread: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        sizes = [encoder.width, *[WIDTH] * LAYERS]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(WIDTH, 1, bias=False)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def standardised(self, codes: Tensor) -> Tensor:
        """Quality less its mean, over its spread."""
        for layer in self.hidden:
            codes = F.relu(layer(codes))
        result: Tensor = self.head(codes)[:, 0]
        return result

    def forward(self, codes: Tensor) -> Tensor:
        """Quality in its own unit."""
        return self.standardised(codes) * self.spread + self.mean

    @torch.inference_mode()
    def quality(self, bits: Bits, form: Form | NDArray[np.int64]) -> NDArray[np.float64]:
        """Predicted quality of a population, [members]."""
        codes = torch.from_numpy(self.encoder.encode(bits, form))
        found: NDArray[np.float64] = self(codes).double().numpy()
        return found

    def save(self, path: Path) -> None:
        """Write the weights with the space and the encoder's version."""
        described = {"kind": self.KIND, "encoder": ENCODER, "space": self.encoder.space.model_dump()}
        with atomic_path(path) as temporary:
            state = {n: v.detach().contiguous().clone() for n, v in self.state_dict().items()}
            save_file(state, temporary, metadata={METADATA: json.dumps(described)})

    @staticmethod
    def restored(space: ElasticSpace, state: dict[str, Tensor]) -> Cqap:
        """Of what `save` wrote."""
        made = Cqap(Encoder(space))
        made.load_state_dict(state)
        return made.eval()


def train_cqap(
    space: ElasticSpace, samples: Sequence[Measured], settings: CqapSettings = USUAL
) -> tuple[Cqap, Agreement]:
    """Trained on most of the samples, with its agreement on the rest, which also chose the epoch."""
    encoder = Encoder(space)
    configurations = [sample.configuration for sample in samples]
    codes = torch.from_numpy(encoder.encode(bits_of(configurations), forms_of(configurations)))
    values = torch.tensor([sample.value for sample in samples])
    checked, kept = split(len(samples), settings.seed)
    check, rest = torch.from_numpy(checked), torch.from_numpy(kept)
    # The draws of initial weights are the settings' own, whatever was drawn before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = Cqap(encoder)
    net.mean.copy_(values[rest].mean())
    net.spread.copy_(values[rest].std().clamp_min(1e-6))
    wanted = (values - net.mean) / net.spread
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.rate, weight_decay=settings.weight_decay, fused=True)
    batch = max(8, min(settings.batch, len(rest) // settings.batches_at_least))
    draw = torch.Generator().manual_seed(settings.seed)
    best, weights = float("inf"), {n: v.clone() for n, v in net.state_dict().items()}
    for _ in range(settings.epochs):
        for part in torch.split(rest[torch.randperm(len(rest), generator=draw)], batch):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(F.smooth_l1_loss(net.standardised(codes[part]), wanted[part]))
            optimizer.step()
        with torch.no_grad():
            error = float((net.standardised(codes[check]) - wanted[check]).square().mean())
        if error < best:
            best, weights = error, {n: v.clone() for n, v in net.state_dict().items()}
    net.load_state_dict(weights)
    net.eval()
    return net, agreement(net, [samples[int(i)] for i in check])
