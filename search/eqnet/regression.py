"""What the regressions of quality share: what they read of a subnet, standardised, and their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bitwright.foundation.files import atomic_path
from search.eqnet.encoder import Bits, bits_of, forms_of
from search.eqnet.forms import Form
from search.eqnet.predictor import METADATA
from search.eqnet.samples import Measured
from search.eqnet.space import ElasticSpace

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def steps(space: ElasticSpace, bits: Bits) -> Floats:
    """2^-b of each free layer's weights and input, [members, 2 L], of widths [members, layers, 2]; L: free layers."""
    return 2.0 ** -bits[:, list(space.free)].reshape(len(bits), -1).astype(np.float64)


def attributes(form: Indices) -> Floats:
    """The three attributes of each form as signs, [members, 3]."""
    return np.stack([form >> 2 & 1, form >> 1 & 1, form & 1], 1) * 2.0 - 1.0


def indices(bits: Bits, form: Form | Indices) -> Indices:
    """The index of each member's form, [members]; `form` is one for all, or the indices themselves."""
    return np.full(len(bits), form.index) if isinstance(form, Form) else form


def parts(samples: Sequence[Measured]) -> tuple[Bits, Indices, Floats]:
    """Widths, forms' indices and qualities of samples."""
    configurations = [sample.configuration for sample in samples]
    return bits_of(configurations), forms_of(configurations), np.array([sample.value for sample in samples])


def moments(found: Floats) -> tuple[Floats, Floats]:
    """Mean and spread of each feature, by which it is standardised; one that never varies has a spread of 1."""
    spread = found.std(0)
    return found.mean(0), np.where(spread > 0, spread, 1.0)


def write(path: Path, kind: str, space: ElasticSpace, arrays: Mapping[str, Floats]) -> None:
    """Write a predictor with its space, at once or not at all."""
    described = {"kind": kind, "space": space.model_dump()}
    whole = {name: np.array(array, order="C") for name, array in arrays.items()}
    with atomic_path(path) as temporary:
        save_file(whole, temporary, {METADATA: json.dumps(described)})
