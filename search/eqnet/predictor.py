"""CQAP: quality of a subnet from its widths and form, by a small network (section 7)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright.foundation.errors import CheckpointError, UsageError
from bitwright.foundation.files import atomic_path
from search.eqnet.encoder import ENCODER, Bits, Encoder, bits_of, forms_of
from search.eqnet.forms import Form
from search.eqnet.samples import Measured
from search.eqnet.space import ElasticSpace

METADATA = "eqnet-predictor"
LAYERS, WIDTH = 7, 200


@dataclass(frozen=True)
class PredictorSettings:
    """The release's recipe: Adam, smooth L1, best epoch by validation RMSE. (The paper's SGD learns nothing at it.)

    With few samples, batches shrink so that an epoch has at least `batches_at_least`.
    """

    epochs: int = 100
    rate: float = 4e-4
    weight_decay: float = 1e-5
    batch: int = 256
    batches_at_least: int = 12
    validation: float = 0.2
    seed: int = 0


USUAL = PredictorSettings()


class Agreement(BaseModel):
    """How predictions and truth agree on samples that were not trained on; NaN where there is nothing to correlate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    pearson: float | None
    kendall: float | None
    kendall_top_quartile: float | None
    rmse: float

    @staticmethod
    def of(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> Agreement:
        """Of two arrays of equal length, in the unit of the quality."""
        top = true >= np.quantile(true, 0.75)
        return Agreement(
            samples=len(true),
            pearson=_statistic(stats.pearsonr, predicted, true),
            kendall=_statistic(stats.kendalltau, predicted, true),
            kendall_top_quartile=_statistic(stats.kendalltau, predicted[top], true[top]),
            rmse=float(np.sqrt(np.mean((predicted - true) ** 2))),
        )


class Predictor(nn.Module):
    """Codes [N, width] to quality [N]. Targets are standardised: `mean` is the output's bias, `spread` its unit."""

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
        described = {"encoder": ENCODER, "space": self.encoder.space.model_dump()}
        with atomic_path(path) as temporary:
            state = {n: v.detach().contiguous().clone() for n, v in self.state_dict().items()}
            save_file(state, temporary, metadata={METADATA: json.dumps(described)})

    @staticmethod
    def load(path: Path) -> Predictor:
        """Read what `save` wrote; UsageError for one of another encoder."""
        try:
            with safe_open(path, framework="pt") as file:
                described = json.loads((file.metadata() or {})[METADATA])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, KeyError, OSError) as error:
            raise CheckpointError(f"{path} is not an accuracy predictor") from error
        if described["encoder"] != ENCODER:
            raise UsageError(f"{path} has encoder {described['encoder']}, not {ENCODER}; train it anew")
        made = Predictor(Encoder(ElasticSpace.model_validate(described["space"])))
        made.load_state_dict(state)
        return made.eval()


def train(
    space: ElasticSpace, samples: Sequence[Measured], settings: PredictorSettings = USUAL
) -> tuple[Predictor, Agreement]:
    """A predictor trained on most of the samples, and its agreement with the rest, which also chose the epoch."""
    encoder = Encoder(space)
    configurations = [sample.configuration for sample in samples]
    codes = torch.from_numpy(encoder.encode(bits_of(configurations), forms_of(configurations)))
    values = torch.tensor([sample.value for sample in samples])
    order = np.random.default_rng(settings.seed).permutation(len(samples))
    held = max(2, round(settings.validation * len(samples)))
    if len(samples) - held < 2:
        raise UsageError(f"a predictor needs at least 4 samples, not {len(samples)}")
    check, rest = torch.from_numpy(order[:held]), torch.from_numpy(order[held:])
    # The draws of initial weights are the settings' own, whatever was drawn before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = Predictor(encoder)
    net.mean.copy_(values[rest].mean())
    net.spread.copy_(values[rest].std().clamp_min(1e-6))
    wanted = (values - net.mean) / net.spread
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.rate, weight_decay=settings.weight_decay, fused=True)
    batch = max(8, min(settings.batch, len(rest) // settings.batches_at_least))
    draw = torch.Generator().manual_seed(settings.seed)
    best, kept = float("inf"), {n: v.clone() for n, v in net.state_dict().items()}
    for _ in range(settings.epochs):
        for part in torch.split(rest[torch.randperm(len(rest), generator=draw)], batch):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(F.smooth_l1_loss(net.standardised(codes[part]), wanted[part]))
            optimizer.step()
        with torch.no_grad():
            error = float((net.standardised(codes[check]) - wanted[check]).square().mean())
        if error < best:
            best, kept = error, {n: v.clone() for n, v in net.state_dict().items()}
    net.load_state_dict(kept)
    net.eval()
    return net, agreement(net, [samples[int(i)] for i in check])


def agreement(net: Predictor, samples: Sequence[Measured]) -> Agreement:
    """Agreement on some samples."""
    configurations = [sample.configuration for sample in samples]
    predicted = net.quality(bits_of(configurations), forms_of(configurations))
    return Agreement.of(predicted, np.array([sample.value for sample in samples]))


def learning_curve(
    space: ElasticSpace, samples: Sequence[Measured], held_out: Sequence[Measured], sizes: Sequence[int],
    settings: PredictorSettings = USUAL,
) -> dict[int, Agreement]:  # fmt: skip
    """Agreement on `held_out` of predictors trained on the first samples; sizes that there are not are left out."""
    found = {}
    for size in sizes:
        if size <= len(samples):
            net, _ = train(space, samples[:size], settings)
            found[size] = agreement(net, held_out)
    return found


def _statistic(function: object, a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    assert callable(function)
    return float(function(a, b).statistic)
