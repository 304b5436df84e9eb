"""The predictor of a run: all kinds are trained, and the one that is closest on samples left out is taken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file as load_tensors

from bitwright.foundation.errors import CheckpointError, UsageError
from search.eqnet.cqap import USUAL, Cqap, CqapSettings, train_cqap
from search.eqnet.encoder import ENCODER
from search.eqnet.gaussian_process import LARGEST, GaussianProcess
from search.eqnet.noise_regression import NoiseRegression
from search.eqnet.predictor import METADATA, Agreement, Predictor, agreement
from search.eqnet.samples import Measured, split
from search.eqnet.space import ElasticSpace

REGRESSIONS: tuple[type[NoiseRegression] | type[GaussianProcess], ...] = (NoiseRegression, GaussianProcess)
"""Kinds that are fitted at once, without samples to stop by."""


class Choice(NamedTuple):
    """The best predictor, and the agreement of each kind on the samples that chose between them.

    `noise`: of the samples' own quality as the Gaussian process finds it, in its unit; None where it was left out.
    """

    predictor: Predictor
    told: dict[str, Agreement]
    noise: float | None


def train(space: ElasticSpace, samples: Sequence[Measured], settings: CqapSettings = USUAL) -> Choice:
    """Train all kinds and choose; the Gaussian process is left out where there are too many samples for it.

    UsageError for fewer than 4 samples.
    """
    checked, kept = split(len(samples), settings.seed)
    net, of_net = train_cqap(space, samples, settings)
    check, rest = ([samples[int(number)] for number in part] for part in (checked, kept))
    kinds = [kind for kind in REGRESSIONS if kind is not GaussianProcess or len(samples) <= LARGEST]
    fitted = [kind.fit(space, rest) for kind in kinds]
    told = {Cqap.KIND: of_net, **{one.KIND: agreement(one, check) for one in fitted}}
    noise = next((one.noise for one in fitted if isinstance(one, GaussianProcess)), None)
    best = min(told, key=lambda kind: told[kind].rmse)
    # A regression that was chosen learns from all samples; the network has stopped by those that were left out.
    return Choice(next((kind.fit(space, samples) for kind in kinds if best == kind.KIND), net), told, noise)


def load(path: Path) -> Predictor:
    """Read what `Predictor.save` wrote; UsageError for one of another encoder, CheckpointError for a damaged one."""
    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {})[METADATA])
            kind, space = described["kind"], ElasticSpace.model_validate(described["space"])
        for regression in REGRESSIONS:
            if kind == regression.KIND:
                return regression.restored(space, load_arrays(path))
        if described["encoder"] != ENCODER:
            raise UsageError(f"{path} has encoder {described['encoder']}, not {ENCODER}; train it anew")
        return Cqap.restored(space, load_tensors(path))
    except (SafetensorError, KeyError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not an accuracy predictor, or is damaged; delete it") from error
